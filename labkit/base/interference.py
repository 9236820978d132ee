"""What a turn lost to other work: cores that a process counts are not cores that it is given.

Read before and after each turn of a comparison, outside its timed part. A counter that this system
does not have is None, never 0, and `Meter.uncounted` says why.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from labkit.base.cores import GROUPS, allowed, cores, own_groups

LOST = 0.02  # the share of its core time above which a turn is told
# Fields of a line of /proc/stat (proc_stat(5)); the first is the line's name.
_STEAL = 8
_BUSY = (1, 2, 3, 6, 7)  # user, nice, system, interrupts
# Of cpu.stat: version 2 counts microseconds (the kernel's cgroup-v2.rst), version 1 nanoseconds
# (sched-bwc.rst). Both add up the pauses of all cores.
_THROTTLED = {"throttled_usec": 1e-6, "throttled_time": 1e-9}
# Why a counter is missing.
_WHY = {
    "stolen": "this system does not tell the time stolen from its cores",
    "throttled": "no control group here tells how long its quota stopped it",
    "waited": "this system does not tell how long a thread waited for a core",
    "switches": "this system does not tell how often a thread was taken off its core",
}
_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Counters:
    """Running totals, in seconds of one core; None where there is no such counter.

    at: monotonic seconds. stolen: what the hypervisor gave to others, of the cores that this
    process may use; in ticks, mostly of 10 ms. throttled: by control group, how long its quota kept
    threads from running. waited: by thread of this process, how long it was ready and had no core.
    others: of the cores that this process may use, how long they worked for other processes, this
    one's children included; in ticks too. switches: how often a thread of this process was taken
    off its core.
    """

    at: float
    stolen: float | None
    throttled: Mapping[str, float] | None
    waited: Mapping[int, float] | None
    others: float | None
    switches: int | None


@dataclass(frozen=True)
class Lost:
    """What a turn lost, in seconds of one core as `Counters` has them; None where not counted.

    seconds: of the clock, from before the turn to after it. cores: those given to this process.
    """

    seconds: float
    cores: int
    stolen: float | None = None
    throttled: float | None = None
    waited: float | None = None
    others: float | None = None
    switches: int | None = None

    @property
    def share(self) -> float | None:
        """The share of the turn's core time that others had; None where nothing is counted.

        A thread that a quota stops is ready all the while. It may count in both, so only the larger
        of the two is taken. Where no other process had a core, the threads waited for each other:
        more than others had, they have not lost.
        """
        waited = self.waited
        if waited is not None and self.others is not None:
            waited = min(waited, self.others)
        kept_off = [part for part in (self.throttled, waited) if part is not None]
        if self.stolen is None and not kept_off:
            return None
        lost = (self.stolen or 0.0) + max(kept_off, default=0.0)
        return min(1.0, lost / (self.seconds * self.cores)) if self.seconds > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the traces folder of a run."""
        return asdict(self) | {"share": self.share}


class Meter:
    """Reads the counters of this process. uncounted: by missing counter, why it is missing.

    The other processes that a variant may run in are not looked at: of their turns, only what is
    stolen and throttled is known. proc, groups: where the system has them; others are for tests.
    """

    def __init__(self, proc: Path = Path("/proc"), groups: Path = GROUPS) -> None:
        self._files = _Files()
        self._stat, self._tasks = str(proc / "stat"), str(proc / "self/task")
        self._tick = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
        numbers = allowed() or range(os.cpu_count() or 1)
        self._cores = {f"cpu{number}" for number in numbers}
        self._given = cores().given
        files = [str(one / "cpu.stat") for one in own_groups(groups, proc / "self/cgroup")]
        self._groups = [file for file in files if _throttled(self._files.read(file)) is not None]
        self._known: dict[int, float] = {}
        first = self.now()
        self.uncounted = {name: why for name, why in _WHY.items() if getattr(first, name) is None}

    def now(self) -> Counters:
        """The totals up to now."""
        stolen, others = self._of_cores()
        return Counters(
            time.perf_counter(), stolen, self._stopped(), self._waited(), others, _switches()
        )

    def since(self, before: Counters) -> Lost:
        """What was lost from an earlier reading of this meter up to now."""
        now = self.now()
        return Lost(
            now.at - before.at,
            self._given,
            None if now.stolen is None else now.stolen - (before.stolen or 0.0),
            None if now.throttled is None else max(_grown(now.throttled, before.throttled)),
            None if now.waited is None else sum(_grown(now.waited, before.waited)),
            None if now.others is None else max(0.0, now.others - (before.others or 0.0)),
            None if now.switches is None else now.switches - (before.switches or 0),
        )

    def _of_cores(self) -> tuple[float | None, float | None]:
        """`stolen` and `others` of Counters."""
        cpus, _, _ = self._files.read(self._stat).partition("intr")  # that line may be a long one
        lines = [line.split() for line in cpus.splitlines()]
        own = [line for line in lines if len(line) > _STEAL and line[0] in self._cores]
        if not own:
            return None, None
        busy = sum(int(line[field]) for line in own for field in _BUSY) / self._tick
        stolen = sum(int(line[_STEAL]) for line in own) / self._tick
        return stolen, busy - time.process_time()

    def _stopped(self) -> dict[str, float] | None:
        found = {file: _throttled(self._files.read(file)) for file in self._groups}
        return {name: value for name, value in found.items() if value is not None} or None

    def _waited(self) -> dict[int, float] | None:
        """By each thread's schedstat: nanoseconds run and ready, a count (sched-stats.rst).

        A thread that the system leaves out of one reading, as it may while others end, keeps what
        it had: else the next reading would count all that it ever waited.
        """
        found = dict(self._known)
        try:
            threads = os.listdir(self._tasks)
        except OSError:
            return None
        for thread in threads:
            fields = self._files.read(f"{self._tasks}/{thread}/schedstat").split()
            if len(fields) == 3:  # else the thread has just ended
                found[int(thread)] = int(fields[1]) * 1e-9
        self._known = found
        return found or None


def _grown(now: Mapping[_Key, float], before: Mapping[_Key, float] | None) -> list[float]:
    """By how much each total has grown. One that was not there before began at 0, and so did one
    that is smaller now: a new thread may have the number of one that has ended."""
    then = [(value, (before or {}).get(key, 0.0)) for key, value in now.items()]
    return [value - earlier if value >= earlier else value for value, earlier in then]


class _Files:
    """Small files of the system, kept open: opening one takes longer than reading it."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        weakref.finalize(self, _close, self._open)

    def read(self, path: str) -> str:
        """The text of a file as it is now; empty where it cannot be read."""
        try:
            if path not in self._open:
                self._open[path] = os.open(path, os.O_RDONLY)
            return os.pread(self._open[path], 1 << 16, 0).decode("ascii", "replace")
        except OSError:  # no such file, or the thread that it tells of has ended
            if (handle := self._open.pop(path, None)) is not None:
                os.close(handle)
            return ""


def _close(handles: dict[str, int]) -> None:
    for handle in handles.values():
        os.close(handle)


def _throttled(text: str) -> float | None:
    """The seconds in the text of a group's cpu.stat; None where it does not say."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name in _THROTTLED and value.isdecimal():
            return int(value) * _THROTTLED[name]
    return None


def _switches() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
