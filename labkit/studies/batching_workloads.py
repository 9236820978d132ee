"""The workloads of notebook 07: always so many in flight, and answers of very different lengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from labkit.workload.arrivals import Arrivals, at_once, closed_loop, poisson
from labkit.workload.lengths import Lengths, heavy_tailed
from labkit.workload.streams import Use, stream
from labkit.workload.timed import TimedRequest, TimedWorkload

ONE, MANY, TAILED = "one request", "always in flight", "heavy-tailed answers"
MOST_MEDIANS = 8  # in the longest answer
A_ROUND = 1000  # prompts of a round, at most: the next round has others
_FIRST = 100_000  # the number of the first prompt; forecasts are made from smaller ones


class Tail(NamedTuple):
    """Lognormal lengths of answers: the median, and the deviation of the logarithm."""

    median: int
    sigma: float = 1.0

    @property
    def most(self) -> int:
        """Tokens of the longest answer, at most."""
        return MOST_MEDIANS * self.median


@dataclass(frozen=True)
class Workloads:
    """Makes the requests of a round: the lengths are the same in every round, the prompts are not.

    prompt: the prompt with a number, of so many tokens. count: requests of a workload.
    """

    prompt: Callable[[int, int], list[int]]
    prompt_tokens: int
    new_tokens: int
    slots: int
    count: int
    tail: Tail

    @cached_property
    def lengths(self) -> Lengths:
        """Tokens of the answers with a heavy tail, in the order of the requests; each has a
        TPOT."""
        random = stream(0, Use.OUTPUT_LENGTHS)
        tail = self.tail
        return heavy_tailed(self.count, tail.median, tail.sigma, random, 2, tail.most)

    def one(self, number: int) -> TimedWorkload:
        """A single request."""
        return self._of(ONE, at_once(1), (self.new_tokens,), number)

    def many(self, number: int) -> TimedWorkload:
        """As many in flight as there are slots, each followed by another until all were asked."""
        arrivals = closed_loop(self.slots, self.count)
        return self._of(MANY, arrivals, (self.new_tokens,) * self.count, number)

    def tailed(self, number: int) -> TimedWorkload:
        """Answers with a heavy tail, all asked for at the start."""
        return self._of(TAILED, at_once(self.count), self.lengths, number)

    def arriving(self, rate: float, number: int) -> TimedWorkload:
        """The same answers, asked for by a Poisson process of `rate` requests a second."""
        arrivals = poisson(rate, self.count, seed=number)
        return self._of(f"{rate:.3g} requests a second", arrivals, self.lengths, number)

    def _of(self, name: str, arrivals: Arrivals, lengths: Lengths, number: int) -> TimedWorkload:
        first = _FIRST + number * A_ROUND
        requests = tuple(
            TimedRequest(
                one.due, tuple(self.prompt(first + n, self.prompt_tokens)), new, n,
                follows=one.follows,
            )
            for n, (one, new) in enumerate(zip(arrivals, lengths, strict=True))
        )  # fmt: skip
        return TimedWorkload(name, requests, number)
