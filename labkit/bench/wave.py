"""Requests that are asked at the same moment: the trace of each, and one trace of all tokens."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labkit.timing.trace import Trace


@dataclass(frozen=True)
class Wave(Trace):
    """All tokens of all requests, in the order in which they came. each: the requests' own traces.

    Its end-to-end latency is the wall window of metrics.md: from when all were due to the last
    token.
    """

    each: tuple[Trace, ...] = ()

    @classmethod
    def of(cls, each: Sequence[Trace]) -> Wave:
        """The wave of some requests; ValueError for none."""
        times = sorted(time for one in each for time in one.times)
        due = min((one.due for one in each), default=0.0)
        return cls(due, tuple(times), sum(one.prompt_tokens for one in each), (), tuple(each))

    @property
    def seconds_a_token(self) -> float:
        """The wall window over the tokens of all requests: output throughput is 1 over it."""
        return self.e2e_latency / len(self.times)

    @property
    def answering(self) -> float | None:
        """Seconds a token of all requests together, while every one of them answers.

        From the moment at which the last of them has its first token to the moment at which the
        first of them has its last; so no prompt is in it. Each request counts from its own last
        token before to its own first token after. None where there is no such time.
        """
        begin = max(one.times[0] for one in self.each)
        end = min(one.times[-1] for one in self.each)
        rates = [_rate(one.times, begin, end) for one in self.each]
        return 1 / sum(rates) if all(rates) else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the traces of the requests, from which the rest follows."""
        return {"each": [one.to_dict() for one in self.each]}


def _rate(times: Sequence[float], begin: float, end: float) -> float:
    """Tokens a second from the last time up to `begin` to the first one from `end` on; or 0."""
    first, last = bisect_right(times, begin) - 1, bisect_left(times, end)
    if end <= begin or times[last] <= times[first]:
        return 0.0
    return (last - first) / (times[last] - times[first])
