"""How long running requests wait for their next token while a long prompt is read beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from labkit.engine.batching import BatchEngine
from labkit.engine.records import PassRecord
from labkit.engine.served import Handle, ServedRequest
from labkit.errors import ModelError
from labkit.studies.batching_runs import Seen
from labkit.timing.statistics import geometric_mean
from labkit.timing.trace import Trace

BEFORE = 24  # passes of the running requests alone, whose gaps are the usual ones
AFTER = 4  # passes after the long prompt's first token
NOBODY = -1  # the number of no request
# The variants: how a long prompt is read.
WHOLE, FIXED, PACED = "in one pass", "in fixed chunks", "in chunks by measured cost"
CALM = "never: none came"  # the control: the longest of many gaps is long for itself


@dataclass(frozen=True)
class Stall:
    """What a long prompt did to the requests beside it; all in seconds.

    usual: the median gap between their tokens before it came. longest: start and end of the longest
    gap of any of them, from then to its first token. ttft: how long that took. passes: that it was
    read in. due: when it came. long: its number in the engine.
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
    beside = _Beside(engine, prompts, new_tokens)
    due = time.perf_counter()
    guest = engine.submit(ServedRequest(long, AFTER + 1))
    while not guest.tokens and guest.finish is None:
        came = beside.watch.step()
    for _ in range(AFTER):
        beside.watch.step()
    beside.end(guest)
    records = beside.records
    reading = sum(any(one.prefill for one in r.rows) for r in records if r.start >= due)
    usual, longest = beside.gaps(due, came)
    return Stall(usual, longest, came - due, reading, due, records, guest.number)


def calm(
    engine: BatchEngine, prompts: Sequence[Sequence[int]], passes: int, new_tokens: int
) -> Stall:
    """The same where no long prompt comes: the gaps of so many passes, which `ttft` is the time of.

    The longest of some hundred gaps is longer than the usual one whatever comes. No more passes are
    made than the running requests have tokens for.
    """
    beside = _Beside(engine, prompts, new_tokens)
    due = came = time.perf_counter()
    passes = max(1, min(passes, new_tokens - BEFORE - 2))
    for _ in range(passes):
        came = beside.watch.step()
    beside.end()
    usual, longest = beside.gaps(due, came)
    return Stall(usual, longest, came - due, passes, due, beside.records, NOBODY)


class _Beside:
    """Requests that answer, each of them already for BEFORE passes."""

    def __init__(
        self, engine: BatchEngine, prompts: Sequence[Sequence[int]], new_tokens: int
    ) -> None:
        self.engine, self.watch = engine, _Watch(engine)
        self._start = time.perf_counter()
        self._running = [engine.submit(ServedRequest(prompt, new_tokens)) for prompt in prompts]
        while not all(one.tokens or one.finish for one in self._running):
            self.watch.step()
        for _ in range(BEFORE):
            self.watch.step()

    def end(self, *guests: Handle) -> None:
        """Cancel them all; ModelError where one failed."""
        every = (*self._running, *guests)
        for one in every:
            one.cancel()
        while not self.engine.idle:
            self.engine.step()
        if failed := [one for one in every if one.error is not None]:
            raise ModelError(f"a request beside a long prompt failed: {failed[0].error}")

    @property
    def records(self) -> tuple[PassRecord, ...]:
        return tuple(one for one in self.engine.records if one.start >= self._start)

    def gaps(self, due: float, came: float) -> tuple[float, tuple[float, float]]:
        """The median gap before `due`, and the longest one between then and `came`."""
        times = {one.number: self.watch.times[one.number] for one in self._running}
        usual = np.median(_gaps(times, self._start, due))
        return float(usual), max(_spans(times, due, came), key=lambda span: span[1] - span[0])


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


Texts = Callable[[int], tuple[Sequence[Sequence[int]], Sequence[int]]]


class Ways:
    """Ways to read a long prompt, as the variants of one comparison; CALM reads none.

    engines: by way. texts: of a round, the prompts of the running requests and the long one.
    new_tokens: the most that each running request answers.
    """

    def __init__(self, engines: Mapping[str, BatchEngine], texts: Texts, new_tokens: int) -> None:
        self.engines, self._texts, self._new_tokens = engines, texts, new_tokens
        self.seen = {name: Seen[Stall]() for name in engines}
        self._passes = 0  # that the last long prompt by measured cost took

    @property
    def variants(self) -> dict[str, Callable[[int], Trace]]:
        return {name: partial(self._turn, name) for name in self.engines}

    def _turn(self, name: str, number: int) -> Trace:
        prompts, long = self._texts(number)
        if name == CALM:
            found = calm(self.engines[name], prompts, self._passes or len(long), self._new_tokens)
        else:
            found = stall(self.engines[name], prompts, long, self._new_tokens)
        if name == PACED:
            self._passes = found.passes
        return self.seen[name].note(number, found).trace
