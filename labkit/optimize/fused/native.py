"""The kernel: compiled on first use by the system's compiler, kept, and called through ctypes.

The library is kept under a name made from its source, the compiler flags and the processor's
features, so that a cache carried to another processor is rebuilt there instead of crashing.
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
from ctypes import POINTER, c_char_p, c_float, c_int, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path

from labkit.optimize.fused.pack import FusedError
from labkit.paths import cache_dir

SOURCE = Path(__file__).with_name("kernel")
ISAS = ("avx512vnni", "avx2", "neon", "portable")
_COMPILERS = ("c++", "g++", "clang++")


class Matrix(ctypes.Structure):
    """Interleaved blocks (kernel/model.h)."""

    _fields_ = (
        ("starts", c_void_p),
        ("bias", c_void_p),
        ("stride", c_int64),
        ("rows", c_int32),
        ("columns", c_int32),
        ("format", c_int32),
        ("share", c_int32),
    )


class Layer(ctypes.Structure):
    """A layer's vectors and matrices (kernel/model.h)."""

    _fields_ = (
        *((name, c_void_p) for name in ("attention_norm", "feed_forward_norm")),
        *((name, c_void_p) for name in ("query_norm", "key_norm")),
        *((name, Matrix) for name in ("query", "key", "value", "output", "gate", "up", "down")),
    )


class Model(ctypes.Structure):
    """Shapes and weights of a decoder (kernel/model.h)."""

    _fields_ = (
        *((name, c_int32) for name in ("vocab", "hidden", "intermediate", "layers")),
        *((name, c_int32) for name in ("heads", "kv_heads", "head_dim", "window")),
        ("eps", c_float),
        ("unused", c_int32),
        ("layer", POINTER(Layer)),
        ("norm", c_void_p),
        ("embedding", Matrix),
        ("head", Matrix),
        *((name, c_void_p) for name in ("token_norm", "feature_norm")),
        ("fuse", Matrix),
        ("screen", Matrix),
        ("screen_error", c_void_p),
    )


class Cache(ctypes.Structure):
    """Memory of keys and values (kernel/model.h)."""

    _fields_ = (
        *((name, c_void_p) for name in ("keys", "values", "cosines", "sines")),
        *((name, c_int32) for name in ("slots", "capacity", "type", "unused")),
    )


class Rows(ctypes.Structure):
    """The rows of a pass (kernel/model.h)."""

    _fields_ = (
        *((name, c_void_p) for name in ("tokens", "positions", "wanted", "spans")),
        *((name, c_void_p) for name in ("features", "stream", "best", "chances")),
        *((name, c_void_p) for name in ("paths", "parents")),
        *((name, c_int32) for name in ("rows", "wanted_rows", "span_count", "skip")),
        *((name, c_int32) for name in ("path_width", "likely", "drafted", "unused")),
    )


def compiler() -> str | None:
    """The system's C++ compiler, $CXX first; None where there is none."""
    given = os.environ.get("CXX")
    return next(filter(None, map(shutil.which, (given,) if given else _COMPILERS)), None)


def cpu_features() -> str:
    """What this processor can do, as the system tells it; part of the library's name."""
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
    # No contraction: a multiplication and an addition are fused where the source says so alone.
    # The portable path unrolls into so much scalar code that -O3 takes three times as long.
    level = "-O0" if sanitize else "-O2" if isa == "portable" else "-O3"
    made += ["-ffp-contract=off", "-fno-math-errno", level]
    if sanitize:
        made += ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    return [*made, *([f"-DLK_ISA_{isa.upper()}"] if isa else [])]


def build(isa: str = "", sanitize: bool = False) -> Path:
    """The compiled library, made on first use; FusedError with the compiler's own words."""
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
            f"{', '.join(_COMPILERS)}). Install one, say the package g++ or clang."
        )
    return _compile(
        [command, *flags(isa, sanitize)], [f for f in files if f.suffix == ".cpp"], target
    )


def _compile(command: list[str], sources: list[Path], target: Path) -> Path:
    """Every source beside the others, then all into one library."""
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
    """A compiler's run; FusedError with what it said where it fails."""
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
    """The kernel, loaded; FusedError where it cannot be built or is not what we expect."""
    path = build(isa, sanitize)
    try:
        found = ctypes.CDLL(str(path))
    except OSError as error:
        raise FusedError(f"the compiled kernel cannot be loaded ({error}); delete it.") from error
    found.lk_isa.restype = c_char_p
    found.lk_new.restype = c_void_p
    found.lk_new.argtypes = [c_int]
    found.lk_free.argtypes = [c_void_p]
    found.lk_forward.argtypes = [
        c_void_p, POINTER(Model), POINTER(Cache), POINTER(Rows), c_void_p,
    ]  # fmt: skip
    found.lk_go_on.argtypes = [
        c_void_p, POINTER(Model), POINTER(Cache), c_void_p, c_void_p, c_int, c_int64, c_int64,
        c_int, c_int, c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_int,
    ]  # fmt: skip
    found.lk_exact_groups.argtypes = [c_void_p]
    found.lk_exact_groups.restype = c_int64
    sizes = (c_int32 * 8)()
    count = found.lk_sizes(sizes)
    expected = [ctypes.sizeof(kind) for kind in (Matrix, Layer, Model, Cache, Rows)]
    if list(sizes[:count]) != expected:
        raise FusedError(f"the kernel's structures are {list(sizes[:count])}, ours {expected}.")
    return found
