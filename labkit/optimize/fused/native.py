"""The kernel's library: compiled on first use by the system's compiler, kept, and loaded.

Its file name is made from the source, the compiler flags and the processor's features. So a cache
folder that is copied to another machine causes a new build there, not a crash.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from ctypes import POINTER, c_char_p, c_int, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path

from labkit.base.paths import cache_dir
from labkit.optimize.fused import structs
from labkit.optimize.fused.pack import FusedError

SOURCE = Path(__file__).with_name("kernel")
ISAS = ("avx512vnni", "avx2", "neon", "portable")
_COMPILERS = ("c++", "g++", "clang++")


def compiler() -> str | None:
    """The system's C++ compiler, $CXX first; None where there is none."""
    given = os.environ.get("CXX")
    return next(filter(None, map(shutil.which, (given,) if given else _COMPILERS)), None)


def cpu_features() -> str:
    """The instruction sets of this processor, as the system names them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        found = [line for line in lines if line.startswith(("flags", "Features"))]
    except OSError:
        found = []
    return f"{platform.machine()}|{platform.processor()}|{found[0] if found else ''}"


def flags(isa: str = "", sanitize: bool = False) -> list[str]:
    """Compiler flags. isa: one of ISAS instead of the best this processor has."""
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    made = ["-std=c++20", "-shared", "-fPIC", "-pthread", native]
    # No contraction: a multiplication and an addition are fused only where the source says so.
    # The portable path unrolls into so much scalar code that -O3 compiles three times as long.
    level = "-O0" if sanitize else "-O2" if isa == "portable" else "-O3"
    made += ["-ffp-contract=off", "-fno-math-errno", level]
    if sanitize:
        made += ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    return [*made, *([f"-DLK_ISA_{isa.upper()}"] if isa else [])]


def build(isa: str = "", sanitize: bool = False) -> Path:
    """The path of the compiled library, made on first use; FusedError where that fails."""
    if isa and isa not in ISAS:
        raise FusedError(f"instruction set {isa!r} is unknown; allowed: {', '.join(ISAS)}.")
    command = compiler()
    files = sorted(SOURCE.iterdir())
    mark = [cpu_features(), sys.platform, *flags(isa, sanitize), *(f.read_text() for f in files)]
    key = hashlib.sha256("\0".join(mark).encode()).hexdigest()[:16]
    target = cache_dir() / "kernels" / f"fused-{key}.so"
    if target.exists():
        return target
    if command is None:
        raise FusedError(
            "the fused decoder needs a C++ compiler, and none was found (looked for $CXX, "
            f"{', '.join(_COMPILERS)}). Install one: the package g++ or clang."
        )
    return _compile(
        [command, *flags(isa, sanitize)], [f for f in files if f.suffix == ".cpp"], target
    )


def _compile(command: list[str], sources: list[Path], target: Path) -> Path:
    """Compile every source at the same time, then link them into one library."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        objects = [str(Path(folder) / f"{source.stem}.o") for source in sources]
        made = Path(folder) / target.name
        with ThreadPoolExecutor() as beside:
            commands = (
                [*command, "-c", str(source), "-o", to]
                for source, to in zip(sources, objects, strict=True)
            )
            list(beside.map(_run, commands))
        _run([*command, *objects, "-o", str(made)])
        os.replace(made, target)
    return target


def _run(command: list[str]) -> None:
    """Run the compiler; FusedError with its message where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        raise FusedError(f"the C++ compiler could not be run: {error}") from error
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[:12])
        raise FusedError(
            f"the kernel could not be compiled by {command[0]} (code {done.returncode}). "
            "Needed are C++20 and the standard library, as in g++ 11 or clang 14. "
            f"It said:\n{said}"
        )


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
    found.lk_exact_groups.argtypes = [c_void_p]
    found.lk_exact_groups.restype = c_int64
    _check_sizes(found)
    return found


def _check_sizes(found: ctypes.CDLL) -> None:
    """FusedError where the kernel's structs are not those of structs.py."""
    sizes = (c_int32 * 16)()
    count = found.lk_sizes(sizes)
    expected = [ctypes.sizeof(kind) for kind in structs.STRUCTS]
    if sizes[:count] != expected:
        raise FusedError(f"the kernel's structs have {sizes[:count]} bytes, ours {expected}.")
