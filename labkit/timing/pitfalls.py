"""The benchmark everyone starts from, and measurements of the ways in which it misleads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from labkit.limits.probe import synchronize
from labkit.timing.trace import clock


class SimpleLLM(torch.nn.Module):
    """A "model" that returns what it was given."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def naive_benchmark() -> float:
    """Time it the way one does on a first afternoon."""
    model = SimpleLLM()
    data = torch.randn(1, 100)
    start = time.time()
    model(data)
    end = time.time()
    print(f"Inference time: {end - start:.6f} seconds")
    return end - start


def clock_step(read: Callable[[], float], count: int = 2000) -> float:
    """The least time a clock can tell apart from none, in seconds."""
    readings = [read() for _ in range(count)]
    steps = [b - a for a, b in pairwise(readings) if b > a]
    return min(steps, default=float("nan"))


def samples(work: Callable[[], object], count: int, device: str = "cpu") -> list[float]:
    """Durations of `count` calls, each synchronized, the first included, in seconds."""
    return [clock(work, device).e2e_latency for _ in range(count)]


def queued_and_done(work: Callable[[], object], device: str = "cpu") -> tuple[float, float]:
    """Seconds until `work` was handed over, and until it was done.

    An accelerator is handed work as it is; a CPU computes at once, so there the work goes to
    another thread, and the mistake of not waiting for it is the same.
    """
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()  # the thread is there before the clock starts
        start = time.perf_counter()
        pending = pool.submit(work) if device == "cpu" else work()
        queued = time.perf_counter() - start
        if device == "cpu":
            pending.result()  # type: ignore[attr-defined]
        synchronize(device)
        return queued, time.perf_counter() - start


def block_ratios(series: Sequence[float], size: int) -> np.ndarray:
    """Speedups claimed by timing `size` calls of A, then `size` of B, when A and B are the same.

    series: durations of one and the same work. Every place of the series is tried.
    """
    values = np.asarray(series)
    starts = range(len(values) - 2 * size + 1)
    return np.array(
        [
            np.median(values[s : s + size]) / np.median(values[s + size : s + 2 * size])
            for s in starts
        ]
    )


def interleaved_ratios(series: Sequence[float], size: int) -> np.ndarray:
    """The same with A and B taking turns: the median of `size` paired ratios, ABBA order."""
    values = np.asarray(series)
    pairs = values[: len(values) // 2 * 2].reshape(-1, 2)
    ratios = np.where(
        np.arange(len(pairs)) % 2, pairs[:, 1] / pairs[:, 0], pairs[:, 0] / pairs[:, 1]
    )
    starts = range(len(ratios) - size + 1)
    return np.array([np.median(ratios[s : s + size]) for s in starts])


def slowed(stream: Iterable[int], share: float) -> Iterator[int]:
    """The same tokens, each made to take `share` longer than it took: a planted slowdown."""
    before = time.perf_counter()
    for token in stream:
        now = time.perf_counter()
        until = now + share * (now - before)
        while time.perf_counter() < until:
            pass
        before = time.perf_counter()
        yield token
