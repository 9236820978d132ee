"""Why the same read is fast at one moment and slow at another: the states of the memory.

Sets of bytes of several sizes are read again and again by the fastest reader. Each round puts the
same set into several situations, and what is compared lies within a round: right after itself,
after a pause, after another large set was read, and on the system's smallest pages. Then two sets
are read by turns for a while. Everything here returns numbers; `memory_states_told` shows them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import psutil
import torch
from torch import Tensor
from tqdm.auto import tqdm

from labkit.base.device import Device, cores_allowed, kind, memory_bytes, synchronize
from labkit.base.memory import allocate
from labkit.limits.work import BareRead, buffer, spell
from labkit.timing.compare import turn_order
from labkit.timing.statistics import FEWEST_ROUNDS, Ratio, geometric_mean, interval

ITSELF, PAUSE, OTHER, PAGES = "right after itself", "after a pause", "after other", "4 kB pages"

_NEAR = {"cpu": 2**19, "cuda": 2**24, "mps": 2**22}  # bytes that the cores' own caches hold
_LOOK = {"cpu": 0.002, "cuda": 0.01, "mps": 0.01}  # seconds of a look at least: starting is no part
_FEWEST, _MOST = 6, 30  # looks in a situation
_SPAN = 0.08  # seconds of the looks in a situation, at least
_OTHER = (2**26, 2**30)  # bytes of the other set, at least and at most
_SPELLS = 6  # of each of the two sets that are read by turns


class Look(NamedTuple):
    """One timed read: bytes a second, and the share of its cores' time that the reader got.

    The share is of a CPU's reader; nan on a device.
    """

    whole: float
    cores: float

    @property
    def rate(self) -> float:
        """bytes/s while the reader ran: what other processes took of its cores does not count, so
        that it says something of the memory."""
        return self.whole if math.isnan(self.cores) else self.whole / max(self.cores, 0.01)


class Moment(NamedTuple):
    """A look while two sets took turns: when it began (seconds), in which spell, of which set."""

    start: float
    spell: int
    size: int
    look: Look


class Reader:
    """Reads one set of bytes, so many times a look that starting and waiting do not count."""

    def __init__(self, size: int, device: Device, threads: int, share: Tensor | None = None):
        self.work, self.size, self.device, self.threads = (
            BareRead(size, device, threads, share), size, device, threads
        )  # fmt: skip
        self.work.repeat(1)
        self.at_once = max(1, math.ceil(_LOOK[kind(device)] / spell(self.work, 0.02).seconds))

    def look(self) -> Look:
        """Read the set `at_once` times."""
        synchronize(self.device)
        start, used = time.perf_counter(), time.process_time()
        self.work.repeat(self.at_once)
        synchronize(self.device)
        taken, used = time.perf_counter() - start, time.process_time() - used
        rate = self.work.check(self.at_once * self.work.amount / taken)
        on_cpu = kind(self.device) == "cpu"
        return Look(rate, min(1.0, used / (self.threads * taken)) if on_cpu else math.nan)

    def looks(self, count: int) -> list[Look]:
        """Several looks without a pause."""
        return [self.look() for _ in range(count)]


@dataclass(frozen=True)
class States:
    """What was measured.

    sizes: bytes of the sets, from the nearest to the largest. at_once: reads of a look, by size.
    rounds: by (size, situation), the looks of every round; no PAGES where the system has no say.
    series: looks while the two largest sets took turns. pause: seconds. other: bytes.
    """

    sizes: tuple[int, ...]
    at_once: Mapping[int, int]
    rounds: Mapping[tuple[int, str], list[list[Look]]]
    series: list[Moment]
    pause: float
    other: int

    def settled(self, size: int) -> list[float]:
        """The rate right after itself in each round, bytes/s."""
        return [rate_of(looks) for looks in self.rounds[size, ITSELF]]

    def first(self, size: int, situation: str) -> Ratio:
        """The first look in a situation over the settled rate, paired within rounds."""
        return self._over_settled(size, situation, lambda looks: looks[0].rate)

    def later(self, size: int, situation: str) -> Ratio:
        """The last third of the looks in a situation over the settled rate."""
        return self._over_settled(size, situation, lambda looks: rate_of(_last(looks, 3)))

    def whole(self, size: int, situation: str) -> Ratio:
        """All looks in a situation over the settled rate."""
        return self._over_settled(size, situation, rate_of)

    def _over_settled(
        self, size: int, situation: str, rate: Callable[[list[Look]], float]
    ) -> Ratio:
        found = [rate(looks) for looks in self.rounds[size, situation]]
        return interval(np.divide(found, self.settled(size)))

    def recovery(self, size: int, situation: str) -> Ratio:
        """The last third of the looks in a situation over its first look."""
        rounds = self.rounds[size, situation]
        return interval([rate_of(_last(looks, 3)) / looks[0].rate for looks in rounds])

    def against(self, size: int, other: int) -> Ratio:
        """The settled rate of one set over that of another, paired within rounds."""
        return interval(np.divide(self.settled(size), self.settled(other)))

    def cores(self, size: int) -> Ratio | None:
        """The share of its cores' time that the reader got in each round; None on a device."""
        shares = [float(np.mean([x.cores for x in looks])) for looks in self.rounds[size, ITSELF]]
        return None if math.isnan(shares[0]) else interval(shares)

    def lasting(self, size: int) -> Ratio:
        """The last quarter of a spell of reading over its first quarter, over the spells."""
        spells: dict[int, list[Look]] = {}
        for moment in self.series:
            if moment.size == size:
                spells.setdefault(moment.spell, []).append(moment.look)
        return interval(
            [rate_of(_last(x, 4)) / rate_of(x[: max(1, len(x) // 4)]) for x in spells.values()]
        )

    def over_time(self, size: int) -> list[float]:
        """The rates of a set while two took turns, bytes/s."""
        return [moment.look.rate for moment in self.series if moment.size == size]

    def shares(self, size: int) -> tuple[float, float]:
        """Of the looks while two sets took turns, the share that came within 10 % of the rate right
        after other memory was read, and of the settled rate."""
        low, high = self.by_look(size, OTHER)[0], geometric_mean(self.settled(size))
        rates = np.array(self.over_time(size))
        slow, fast = (float(np.mean(np.abs(rates / rate - 1) <= 0.1)) for rate in (low, high))
        return slow, fast

    def beyond(self, size: int) -> tuple[float, float, float]:
        """Of the same looks, those that came within 10 % of neither rate: the shares that lie
        between the two, above both, and below both."""
        ends = self.by_look(size, OTHER)[0], geometric_mean(self.settled(size))
        rates = np.array(self.over_time(size))
        far = np.all([np.abs(rates / rate - 1) > 0.1 for rate in ends], axis=0)
        above, below = far & (rates > max(ends)), far & (rates < min(ends))
        between = far & ~above & ~below
        return float(between.mean()), float(above.mean()), float(below.mean())

    def by_look(self, size: int, situation: str) -> list[float]:
        """The rate of the first, second, ... look in a situation: geometric means over rounds."""
        rates = np.array([[look.rate for look in looks] for looks in self.rounds[size, situation]])
        return [geometric_mean(column) for column in rates.T]

    def to_dict(self) -> dict[str, object]:
        """All raw samples, for the traces folder of a run."""
        return {
            "sizes": self.sizes,
            "at_once": {str(size): count for size, count in self.at_once.items()},
            "pause": self.pause,
            "other": self.other,
            "rounds": [
                {"size": size, "situation": situation, "looks": looks}
                for (size, situation), looks in self.rounds.items()
            ],
            "series": self.series,
        }


def rate_of(looks: Sequence[Look]) -> float:
    """The rate of several looks: the geometric mean."""
    return geometric_mean([look.rate for look in looks])


def _last(looks: Sequence[Look], part: int) -> Sequence[Look]:
    return looks[-max(1, len(looks) // part) :]


def _small_pages(size: int) -> Tensor:
    """A written buffer on the system's smallest pages."""
    return torch.from_numpy(allocate(size, huge=False)).view(torch.float32).fill_(1.0)


class _Bench:
    """The buffers and readers of a measurement."""

    def __init__(self, sizes: Sequence[int], device: Device, threads: int, span: float) -> None:
        largest = sizes[-1]
        whole, self.span, on_cpu = buffer(largest, device), span, kind(device) == "cpu"
        self.readers = {size: Reader(size, device, threads, whole) for size in sizes}
        self.pages: dict[int, Reader] = {}
        if on_cpu:
            small = _small_pages(4 * (largest // 4))
            self.pages = {size: Reader(size, device, threads, small) for size in sizes}
            for size, reader in self.pages.items():
                reader.at_once = self.readers[size].at_once
        # Memory that nobody measured in: reading it takes the place of a set in a shared cache.
        other = min(max(4 * largest, _OTHER[0]), _OTHER[1], _room(device))
        self.other = Reader(other, device, threads)

    def count(self, size: int) -> int:
        """Looks in a situation: they fill the span of time."""
        reader = self.readers[size]
        seconds = reader.at_once * reader.work.amount / max(x.rate for x in reader.looks(3))
        return int(min(max(self.span / seconds, _FEWEST), _MOST))

    def situation(self, size: int, name: str, count: int, pause: float) -> list[Look]:
        """Settle a set, put it into a situation, and look at it."""
        reader = self.pages[size] if name == PAGES else self.readers[size]
        reader.looks(count)
        if name == PAUSE:
            time.sleep(pause)
        elif name == OTHER:
            self.other.work.repeat(1)
        return reader.looks(count)


def _room(device: Device) -> int:
    """Bytes that a buffer may have: a sixth of what is free."""
    if kind(device) == "cpu":
        return int(psutil.virtual_memory().available // 6)
    return memory_bytes(device) // 6


def sets_of(weights: float, device: Device = "cpu") -> tuple[int, ...]:
    """The sets to read: one that the cores' own caches hold, a quarter of the weights' bytes (what
    float32 weights take in 8 bits), and all of them. weights: bytes."""
    largest = int(min(weights, _room(device)))
    near = min(_NEAR[kind(device)], largest // 8)
    return tuple(sorted({max(8, size // 8 * 8) for size in (near, largest // 4, largest)}))


def measure(
    sizes: Sequence[int],
    seconds: float,
    device: Device = "cpu",
    threads: int | None = None,
    pause: float = 0.5,
) -> States:
    """Read sets of these sizes in every situation for about `seconds`, a third of them by turns.

    At least as many rounds are made as an interval needs. pause: seconds of the pause; shorter
    where `seconds` is short. The rates are checked against the device's ceiling (ImpossibleRate).
    """
    pause = min(pause, seconds / 40)
    span = max(seconds / 300, _SPAN)
    bench = _Bench(sizes, device, threads or cores_allowed(), span)
    counts = {size: bench.count(size) for size in sizes}
    names = [ITSELF, PAUSE, OTHER, *([PAGES] if bench.pages else [])]
    rounds: dict[tuple[int, str], list[list[Look]]] = {(s, n): [] for s in sizes for n in names}
    start, number = time.perf_counter(), 0
    with tqdm(desc="states of the memory", unit="round", leave=False) as bar:
        while number < FEWEST_ROUNDS or time.perf_counter() - start < seconds * 2 / 3:
            for size in sizes:
                for name in turn_order(names, number):
                    rounds[size, name].append(bench.situation(size, name, counts[size], pause))
            number += 1
            bar.update()
    series = by_turns([bench.readers[size] for size in sizes[-2:]], seconds / 3)
    at_once = {size: reader.at_once for size, reader in bench.readers.items()}
    return States(tuple(sizes), at_once, rounds, series, pause, bench.other.size)


def by_turns(readers: Sequence[Reader], seconds: float) -> list[Moment]:
    """Looks at sets that are read by turns, in spells without a pause, for about `seconds`."""
    lasting, begin = seconds / (_SPELLS * len(readers)), time.perf_counter()
    found: list[Moment] = []
    for number in range(_SPELLS * len(readers)):
        reader, start = readers[number % len(readers)], time.perf_counter()
        looks = 0
        while looks < 4 or time.perf_counter() - start < lasting:
            now = time.perf_counter() - begin
            found.append(Moment(now, number, reader.size, reader.look()))
            looks += 1
    return found
