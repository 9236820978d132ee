"""How many cores this process really gets: its affinity, a quota of its group, and its bindings.

A container may see all cores of a machine and get half of one. And OMP_PROC_BIND pins the thread
that imports torch to one core, so that its affinity then tells less than the process has.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

GROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Before torch is imported: nothing has bound this thread by then.
_AT_START = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


@dataclass(frozen=True)
class Cores:
    """What this process may use. affinity: cores that it may run on. quota: cores' worth of time
    that its group gets, None without a limit. bound: the value of OMP_PROC_BIND. wanted: the value
    of OMP_NUM_THREADS. nice: its priority, 0 where nothing was changed."""

    affinity: int
    quota: float | None
    bound: str
    wanted: int | None
    nice: int

    @property
    def given(self) -> int:
        """Threads that can run at the same time all the time."""
        quota = self.affinity if self.quota is None else max(1, int(self.quota))
        return max(1, min(self.affinity, quota, self.wanted or self.affinity))

    def describe(self) -> dict[str, Any]:
        """As JSON values, for the record of a machine."""
        return asdict(self) | {"given": self.given}


def cores() -> Cores:
    """What this process may use now."""
    return Cores(_affinity(), quota(), os.environ.get("OMP_PROC_BIND", ""), _wanted(), _nice())


def allowed() -> frozenset[int] | None:
    """The numbers of the cores that this process may run on; None where the system does not say."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    now = frozenset(os.sched_getaffinity(0))
    # A bound thread has fewer cores than the process. A process that was moved since has others.
    bound = _AT_START is not None and len(now) == 1 and now < _AT_START and _is_bound()
    return _AT_START or now if bound else now


def _affinity() -> int:
    found = allowed()
    return len(found) if found else psutil.cpu_count(logical=False) or os.cpu_count() or 1


def _is_bound() -> bool:
    return os.environ.get("OMP_PROC_BIND", "false").lower() not in ("", "false")


def _wanted() -> int | None:
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def _nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0) if hasattr(os, "getpriority") else 0


def quota(groups: Path = GROUPS, own: Path = OWN) -> float | None:
    """Cores' worth of time that this process's control group gets, the least of all groups above
    it; None without a limit. Versions 1 and 2 of Linux's control groups."""
    found = [one for folder in own_groups(groups, own) if (one := _limit(folder)) is not None]
    return min(found, default=None)


def own_groups(groups: Path = GROUPS, own: Path = OWN) -> Iterator[Path]:
    """The folders of this process's control group for processor time, from its own up to the root;
    of versions 1 and 2. None where the system has no such groups."""
    try:
        lines = os.fsdecode(own.read_bytes()).splitlines()
    except OSError:
        return
    for line in lines:
        if line.count(":") < 2:
            continue  # no system writes such a line
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = groups if not controllers else groups / "cpu"
        at = Path(path.lstrip("/"))
        for part in (at, *at.parents):
            yield top / part


def _limit(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").is_file():
            most, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            most = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        limit = 0.0 if most == "max" else int(most) / int(period)
        return limit if 0 < limit < math.inf else None  # version 1 writes -1 for none
    except (OSError, ValueError, ArithmeticError):
        return None


@contextmanager
def unbound() -> Iterator[None]:
    """Within the block this thread may run on every core of the process, and so may threads that
    are started in it."""
    every = allowed()
    if every is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, every)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
