"""Timing what the hardware can do: reading memory and multiplying matrices.

Every probe returns all its samples. The fastest is what the hardware allows: a slow moment must not
lower the limit. The others show the spread.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from labkit.base.device import Device, kind, synchronize, threads
from labkit.base.memory import allocate

# bytes: far larger than any cache, so that a larger buffer would not be slower.
LARGEST_PROBE = 256 * 2**20
_ENOUGH = 200  # passes over a small buffer: enough to see the best rate at the moment
_AT_LEAST = 8 * 2**20  # bytes that a call reads; with fewer, the call's own overhead would count


def samples(
    work: Callable[[], object],
    device: Device,
    seconds: float,
    least: int = 5,
    most: float = math.inf,
) -> list[float]:
    """Durations of `work`, repeated for `seconds`, at least `least` and at most `most` times."""
    work()
    synchronize(device)
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < least or (len(taken) < most and time.perf_counter() < end):
        start = time.perf_counter()
        work()
        synchronize(device)
        taken.append(time.perf_counter() - start)
    return taken


def fastest_samples(
    work: Callable[[], object],
    device: Device,
    seconds: float,
    least: int = 5,
    most: float = math.inf,
) -> list[float]:
    """`samples` with all threads, or with one thread where its best is faster.

    If other work runs on the machine, threads may wait for each other longer than a small call
    takes: waits of 8 ms a call were seen. One thread is then up to a hundred times as fast.
    """
    counts = {torch.get_num_threads(), 1} if kind(device) == "cpu" else {None}
    found = []
    for count in counts:
        with threads(count):
            found.append(samples(work, device, seconds, least, most))
    return min(found, key=min)


def buffer(nbytes: int, device: Device = "cpu") -> Tensor:
    """nbytes of float32, written once so that every page is mapped. On huge pages: the fused
    decoder's weights lie there, and reading is faster there."""
    count = max(1, nbytes // 4)
    if kind(device) != "cpu":
        return torch.ones(count, device=device)
    return torch.from_numpy(allocate(4 * count)).view(torch.float32).fill_(1.0)


class BandwidthProbe:
    """Reads a working set again and again; a call gives bytes/s of this moment.

    It keeps its buffer, so that a comparison can probe in every round. It reads by summing. Of the
    operations that torch has on every device, a sum computes least, and it is as fast as memory.
    """

    def __init__(self, nbytes: int, threads: int | None = None, device: Device = "cpu") -> None:
        self.nbytes = min(int(nbytes), LARGEST_PROBE)
        self.threads, self.device = threads or torch.get_num_threads(), device
        whole = buffer(self.nbytes, device)
        # A small buffer is read several times in a call.
        self._read = whole.expand(max(1, _AT_LEAST // whole.nbytes), -1)

    def rates(self, seconds: float = 0.05, least: int = 3, most: float = math.inf) -> list[float]:
        """bytes/s of every pass over the buffer."""
        with threads(self.threads):
            taken = fastest_samples(self._read.sum, self.device, seconds, least, most)
        return [self._read.nbytes / t for t in taken]

    def __call__(self) -> float:
        return max(self.rates(most=_ENOUGH))


def matrix_rates(
    dtype: torch.dtype, size: int, device: Device = "cpu", seconds: float = 0.3
) -> list[float]:
    """FLOP/s of every size x size matrix product in `dtype`; int8 accumulates in int32."""
    work: Callable[[], object]
    if dtype == torch.int8:
        left = torch.randint(-127, 127, (size, size), dtype=dtype, device=device)
        work = partial(torch._int_mm, left, left)
    else:
        left = torch.randn(size, size, device=device).to(dtype)
        out = torch.empty_like(left)
        work = partial(torch.mm, left, left, out=out)
    return [2 * size**3 / t for t in fastest_samples(work, device, seconds)]


def working_sets(largest: int = LARGEST_PROBE, smallest: int = 64 * 2**10) -> list[int]:
    """Sizes to probe: powers of two, with one between each from 8 MiB on, where caches end."""
    sizes = [2**k for k in range(int(math.log2(smallest)), int(math.log2(largest)) + 1)]
    between = [size * 3 // 2 for size in sizes if 8 * 2**20 <= size < largest]
    return sorted(sizes + between)
