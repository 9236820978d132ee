"""Whether programs may use AMX here, and the flags that make a build right that uses it.

A build for "this processor" uses AMX wherever the processor's flags name it. It then dies of an
illegal instruction where the system does not let programs use AMX, and where the compiler has the
bug that amx_loadconfig.h mends. So a small program is compiled and run first.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent
_PROBE = _HERE / "amx_probe.cpp"
_LIMIT = 120.0  # seconds; the compiler needs one


@dataclass(frozen=True)
class Amx:
    """What a build does with AMX. flags: for C and C++; {folder} is the folder of this file."""

    says: str
    flags: str = ""


NONE = Amx("the processor names no AMX")
USED = Amx(
    "with AMX: a probe ran right (GCC's _tile_loadconfig replaced, which GCC 12 compiles wrongly)",
    "-include {folder}/amx_loadconfig.h",
)
# ggml asks for these macros. -mno-amx-int8 would not do: -march=native sets the flags again.
LEFT_OUT = Amx(
    "without AMX: the processor names it, but a probe that used it failed",
    "-U__AMX_TILE__ -U__AMX_INT8__ -U__AMX_BF16__",
)


def is_promised(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor's flags name AMX for 8-bit integers."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux: ggml uses AMX nowhere else
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return "amx_int8" in flags.split()


def runs(compiler: str) -> bool:
    """Whether the probe, compiled as a peer's build would be, runs to its end and computes right.

    A trap ends the probe, not us.
    """
    flags = USED.flags.format(folder=_HERE).split()
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "probe")
        command = [compiler, "-O3", "-march=native", *flags, str(_PROBE), "-o", program]
        try:
            return not any(
                subprocess.run(step, capture_output=True, timeout=_LIMIT).returncode
                for step in (command, [program])
            )
        except (OSError, subprocess.TimeoutExpired):
            return False


def probe(
    compiler: str,
    promised: Callable[[], bool] = is_promised,
    works: Callable[[str], bool] = runs,
) -> Amx:
    """What a build with this compiler should do with AMX."""
    if not promised():
        return NONE
    return USED if works(compiler) else LEFT_OUT
