"""How long running requests wait for their next token while a long prompt is read beside them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from labkit.engine.batching import BatchEngine
from labkit.engine.records import PassRecord
from labkit.engine.served import Handle, ServedRequest
from labkit.errors import ModelError
from labkit.timing.statistics import geometric_mean
from labkit.timing.trace import Trace

BEFORE = 24  # passes of the running requests alone, whose gaps are the usual ones
AFTER = 4  # passes after the long prompt's first token
# The variants: how a long prompt is read.
WHOLE, FIXED, PACED = "in one pass", "in fixed chunks", "in chunks by measured cost"


@dataclass(frozen=True)
class Stall:
    """What a long prompt did to the requests beside it; all in seconds.

    usual: the median gap between their tokens before it came. longest: start and end of the longest
    gap of any of them, from then to its first token. ttft: how long that took. passes: that it was
    read in. due: when it came.
    """

    usual: float
    longest: tuple[float, float]
    ttft: float
    passes: int
    due: float
    records: tuple[PassRecord, ...]
    long: int

    @property
    def gap(self) -> float:
        return self.longest[1] - self.longest[0]

    @property
    def stretch(self) -> float:
        """The longest gap over the usual one."""
        return self.gap / self.usual

    @property
    def trace(self) -> Trace:
        """The longest gap, as the trace of one wait."""
        return Trace(self.longest[0], (self.longest[1],))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the traces folder of a run, without the records of all passes."""
        return {
            "usual": self.usual, "longest": self.longest, "ttft": self.ttft,
            "passes": self.passes, "due": self.due,
        }  # fmt: skip


def of_round(turns: Sequence[Stall]) -> Stall:
    """The turns of a round as one, whose times are their geometric means: a comparison takes both
    turns of its baseline in this way. The rest is that of the first turn."""
    first = turns[0]
    start, gap = first.longest[0], geometric_mean([one.gap for one in turns])
    return replace(
        first,
        usual=geometric_mean([one.usual for one in turns]),
        longest=(start, start + gap),
        ttft=geometric_mean([one.ttft for one in turns]),
    )


class _Watch:
    """When each request's tokens came."""

    def __init__(self, engine: BatchEngine) -> None:
        self.engine, self.times = engine, dict[int, list[float]]()

    def step(self) -> float:
        events = self.engine.step()
        now = time.perf_counter()
        for event in events:
            if event.tokens:
                self.times.setdefault(event.number, []).append(now)
        return now


def stall(
    engine: BatchEngine, prompts: Sequence[Sequence[int]], long: Sequence[int], new_tokens: int
) -> Stall:
    """Let requests with these prompts run, and a long one come to them.

    new_tokens: the most that each of them answers; they are cancelled in the end. The engine must
    be idle; it is idle again at the end. Raises ModelError where all of them were done before the
    long prompt was read, or the engine refuses one.
    """
    start, watch = time.perf_counter(), _Watch(engine)
    running = [engine.submit(ServedRequest(prompt, new_tokens)) for prompt in prompts]
    while not all(one.tokens or one.finish for one in running):
        watch.step()
    for _ in range(BEFORE):
        watch.step()
    due = time.perf_counter()
    guest = engine.submit(ServedRequest(long, AFTER + 1))
    while not guest.tokens and guest.finish is None:
        came = watch.step()
    for _ in range(AFTER):
        watch.step()
    _end(engine, running, guest)
    records = tuple(one for one in engine.records if one.start >= start)
    beside = {one.number: watch.times[one.number] for one in running}
    usual = np.median(_gaps(beside, start, due))
    longest = max(_spans(beside, due, came), key=lambda span: span[1] - span[0])
    reading = sum(any(one.prefill for one in r.rows) for r in records if r.start >= due)
    return Stall(float(usual), longest, came - due, reading, due, records, guest.number)


def _end(engine: BatchEngine, running: Sequence[Handle], guest: Handle) -> None:
    for one in (*running, guest):
        one.cancel()
    while not engine.idle:
        engine.step()
    if failed := [one for one in (*running, guest) if one.error is not None]:
        raise ModelError(f"a request beside a long prompt failed: {failed[0].error}")


def _spans(
    times: Mapping[int, Sequence[float]], start: float, end: float
) -> list[tuple[float, float]]:
    """Gaps between tokens of a request that lie in a time, or reach into it."""
    found = [
        span for of in times.values() for span in pairwise(of) if span[1] > start and span[0] < end
    ]
    if not found:
        raise ModelError(
            "no request was running beside the long prompt: let them answer with more tokens."
        )
    return found


def _gaps(times: Mapping[int, Sequence[float]], start: float, end: float) -> list[float]:
    return [b - a for a, b in _spans(times, start, end) if a >= start and b <= end]
