"""The kernel's library: compiled on first use (labkit.base.native), kept, and loaded."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path

from labkit.base import native as base
from labkit.base.native import NativeError, is_intel, native_flags
from labkit.base.units import shown
from labkit.optimize.fused import structs
from labkit.optimize.fused.pack import FORMATS, FusedError

SOURCE = Path(__file__).with_name("kernel")
ISAS = ("avx512vnni", "avx2", "neon", "portable")


def flags(isa: str = "", sanitize: bool = False) -> list[str]:
    """Compiler flags. isa: one of ISAS instead of the best this processor has."""
    made = native_flags()
    # No contraction: a multiplication and an addition are fused only where the source says so.
    # The portable path unrolls into so much scalar code that -O3 compiles three times as long.
    level = "-O0" if sanitize else "-O2" if isa == "portable" else "-O3"
    made += ["-ffp-contract=off", "-fno-math-errno", level]
    if sanitize:
        made += ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    if is_intel():
        made.append("-DLK_INTEL")  # which prefetches less by itself (kernel/tiles.h)
    return [*made, *([f"-DLK_ISA_{isa.upper()}"] if isa else [])]


def check_isa(isa: str) -> None:
    """FusedError for the name of no instruction set; empty is the best that there is."""
    if isa not in ("", *ISAS):
        raise FusedError(f"instruction set {shown(isa)} is unknown; allowed: {', '.join(ISAS)}.")


def build(isa: str = "", sanitize: bool = False) -> Path:
    """The path of the compiled library, made on first use; FusedError where that fails."""
    check_isa(isa)
    try:
        return base.build("fused", SOURCE, flags(isa, sanitize), "the fused decoder")
    except NativeError as error:
        raise FusedError(str(error)) from error


def is_built(isa: str = "") -> bool:
    """Whether the library is kept, so that `build` compiles nothing."""
    return base.is_built("fused", SOURCE, flags(isa))


@cache
def library(isa: str = "", sanitize: bool = False) -> ctypes.CDLL:
    """The loaded library; FusedError where it cannot be built or does not fit this code."""
    path = build(isa, sanitize)
    try:
        found = ctypes.CDLL(str(path))
    except OSError as error:
        raise FusedError(f"the compiled kernel cannot be loaded ({error}); delete it.") from error
    found.lk_isa.restype = c_char_p
    found.lk_new.restype = c_void_p
    found.lk_new.argtypes = [c_int]
    found.lk_free.argtypes = [c_void_p]
    given = (c_void_p, POINTER(structs.Model), POINTER(structs.Cache))
    found.lk_forward.argtypes = [*given, POINTER(structs.Rows), c_void_p]
    found.lk_continue.argtypes = [*given, POINTER(structs.Continuation)]
    found.lk_interleave.argtypes = [c_int, c_void_p, c_int64, c_int64, c_void_p, c_int64]
    found.lk_interleave.restype = None
    found.lk_screen.argtypes = [c_void_p, c_int64, c_int64, c_void_p, c_void_p]
    found.lk_screen.restype = None
    found.lk_leave_alone.argtypes = [c_void_p, c_int]
    found.lk_leave_alone.restype = None
    found.lk_row.argtypes = [POINTER(structs.Matrix), c_int, c_void_p]
    found.lk_product.argtypes = [POINTER(structs.Matrix), c_void_p, c_int, c_void_p]
    found.lk_row.restype = found.lk_product.restype = None
    found.lk_exact_groups.argtypes = [c_void_p]
    found.lk_exact_groups.restype = c_int64
    _check_sizes(found)
    _check_formats(found)
    return found


def _check_formats(found: ctypes.CDLL) -> None:
    """FusedError where the kernel's block formats are not those of pack.py."""
    for form in FORMATS.values():
        sizes = found.lk_block_bytes(form.number), found.lk_block_columns(form.number)
        if sizes != (form.nbytes, form.columns):
            raise FusedError(f"the kernel's {form.name} has {sizes} bytes and columns a block.")


def _check_sizes(found: ctypes.CDLL) -> None:
    """FusedError where the kernel's structs are not those of structs.py."""
    sizes = (c_int32 * 16)()
    count = found.lk_sizes(sizes)
    expected = [ctypes.sizeof(kind) for kind in structs.STRUCTS]
    if sizes[:count] != expected:
        raise FusedError(f"the kernel's structs have {sizes[:count]} bytes, ours {expected}.")
