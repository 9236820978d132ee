"""C++ sources compiled on first use by the system's compiler, and kept.

The name of a library's folder is made from its sources, the compiler flags and the processor's
features. So a cache folder that is copied to another machine causes a new build there, not a crash.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from labkit.base.kept import is_whole, keep
from labkit.base.paths import cache_dir
from labkit.errors import LabkitError

_COMPILERS = ("c++", "g++", "clang++")
_LIBRARY = "library.so"


class NativeError(LabkitError):
    """There is no C++ compiler, or it could not compile the sources."""


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


def is_intel() -> bool:
    """Whether this is an Intel processor, as far as the system tells."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "Intel" in platform.processor()


def native_flags() -> list[str]:
    """Compiler flags of every library: C++20, threads, all that this processor has."""
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    return ["-std=c++20", "-shared", "-fPIC", "-pthread", native]


def build(name: str, folder: Path, flags: Sequence[str], what: str) -> Path:
    """The path of the library made of the sources in `folder`; NativeError where that fails.

    name: the library's, before its mark. what: needs it, for the message where no compiler is.
    """
    files = sorted(folder.iterdir())
    key = _key(files, flags)

    def make(to: Path) -> None:
        command = compiler()
        if command is None:
            raise NativeError(
                f"{what} needs a C++ compiler, and none was found (looked for $CXX, "
                f"{', '.join(_COMPILERS)}). Install one: the package g++ or clang."
            )
        _compile([command, *flags], [f for f in files if f.suffix == ".cpp"], to / _LIBRARY)

    place = _place(name, key)
    try:
        return keep(place, key, make) / _LIBRARY
    except OSError as error:
        raise NativeError(
            f"{what} cannot be compiled into {place.parent} ({error}): make room there, or set "
            "LABKIT_CACHE to another folder."
        ) from error


def is_built(name: str, folder: Path, flags: Sequence[str]) -> bool:
    """Whether `build` would find the library as it was kept, and compile nothing."""
    key = _key(sorted(folder.iterdir()), flags)
    return is_whole(_place(name, key), key)


def _key(files: Sequence[Path], flags: Sequence[str]) -> str:
    mark = [cpu_features(), sys.platform, *flags, *(f.read_text(encoding="utf-8") for f in files)]
    return hashlib.sha256("\0".join(mark).encode()).hexdigest()


def _place(name: str, key: str) -> Path:
    return cache_dir() / "kernels" / f"{name}-{key[:16]}"


def _compile(command: list[str], sources: list[Path], target: Path) -> None:
    """Compile every source at the same time, then link them into one library."""
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


def _run(command: list[str]) -> None:
    """Run the compiler; NativeError with its message where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        raise NativeError(f"the C++ compiler could not be run: {error}") from error
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[:12])
        raise NativeError(
            f"the kernel could not be compiled by {command[0]} (code {done.returncode}). "
            "Needed are C++20 and the standard library, as in g++ 11 or clang 14. "
            f"It said:\n{said}"
        )
