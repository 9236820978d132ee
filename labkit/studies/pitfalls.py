"""The benchmark everyone starts from, and measurements of the ways in which it misleads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labkit.base.device import Device, kind, synchronize
from labkit.engine.generate import generate
from labkit.model.load import LoadedModel
from labkit.timing.compare import Variant
from labkit.timing.trace import Trace, clock, record
from labkit.workload.prompts import prompt_ids


class SimpleLLM(torch.nn.Module):
    """A "model" that returns what it was given."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def naive_benchmark() -> float:
    """The benchmark that most people write first."""
    model = SimpleLLM()
    data = torch.randn(1, 100)
    start = time.time()
    model(data)
    end = time.time()
    print(f"Inference time: {end - start:.6f} seconds")
    return end - start


def clock_step(read: Callable[[], float], count: int = 2000) -> float:
    """The smallest difference above zero between two readings of a clock, in seconds.

    NaN where `count` readings are all the same.
    """
    readings = [read() for _ in range(count)]
    steps = [b - a for a, b in pairwise(readings) if b > a]
    return min(steps, default=float("nan"))


def samples(work: Callable[[], object], count: int, device: Device = "cpu") -> list[float]:
    """Durations in seconds of `count` calls, the first included; each waits for the device."""
    return [clock(work, device).e2e_latency for _ in range(count)]


def queued_and_done(work: Callable[[], object], device: Device = "cpu") -> tuple[float, float]:
    """Seconds until `work` was handed over, and until it was done.

    An accelerator queues work and returns at once. A CPU computes before it returns, so there the
    work goes to another thread: the mistake of not waiting for it is the same.
    """
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()  # starts the thread before the clock starts
        start = time.perf_counter()
        if kind(device) == "cpu":
            pending = pool.submit(work)
            queued = time.perf_counter() - start
            pending.result()
        else:
            work()
            queued = time.perf_counter() - start
            synchronize(device)
        return queued, time.perf_counter() - start


def block_ratios(series: Sequence[float], size: int) -> NDArray[np.float64]:
    """Speedups found by timing `size` calls of A, then `size` of B, when A and B are the same.

    series: durations of one and the same work. One ratio for every start within the series that
    leaves room for both blocks.
    """
    values = np.asarray(series)
    starts = range(len(values) - 2 * size + 1)
    return np.array(
        [
            np.median(values[s : s + size]) / np.median(values[s + size : s + 2 * size])
            for s in starts
        ]
    )


def interleaved_ratios(series: Sequence[float], size: int) -> NDArray[np.float64]:
    """The same with A and B interleaved: the median of `size` paired ratios, ABBA order."""
    values = np.asarray(series)
    pairs = values[: len(values) // 2 * 2].reshape(-1, 2)
    ratios = np.where(
        np.arange(len(pairs)) % 2, pairs[:, 1] / pairs[:, 0], pairs[:, 0] / pairs[:, 1]
    )
    starts = range(len(ratios) - size + 1)
    return np.array([np.median(ratios[s : s + size]) for s in starts])


def middle(values: Sequence[float] | NDArray[np.float64], share: float) -> tuple[float, float]:
    """The bounds between which the middle `share` of values lies: 0.95 leaves out 2.5 % a side."""
    out = (1 - share) / 2
    low, high = np.quantile(values, [out, 1 - out])
    return float(low), float(high)


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


def slowed_decoding(
    model: LoadedModel, share: float, prompt_tokens: int, new_tokens: int
) -> Variant:
    """A variant for `compare`: decode after a round's prompt, each token `share` slower.

    share: 0 is plain decoding, with nothing around it.
    """

    def run(number: int) -> Trace:
        ids = prompt_ids(model.tokenizer, prompt_tokens, number)

        def stream() -> Iterator[int]:
            plain = generate(model.decoder, ids, new_tokens)
            return slowed(plain, share) if share else plain

        return record(stream, prompt_tokens, model.decoder.device)

    return run
