"""Trace: the raw timestamps of one request. Every metric is derived from it.

Timestamps are seconds of the monotonic clock, taken after a device synchronize.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from labkit.base.device import Device, synchronize


@dataclass(frozen=True)
class Trace:
    """When a request was due and when each of its tokens came.

    due, times: seconds. prompt_tokens: how many tokens the prompt had. tokens: the token ids that
    came. Work without tokens has one timestamp, its end. Raises ValueError if there is no timestamp
    or if one is earlier than the one before it.
    """

    due: float
    times: tuple[float, ...]
    prompt_tokens: int = 0
    tokens: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.times:
            raise ValueError("a trace needs at least one timestamp.")
        if any(b < a for a, b in zip((self.due, *self.times), self.times, strict=False)):
            raise ValueError("timestamps of a trace must not go back.")

    @property
    def ttft(self) -> float:
        """Time to first token, from when the request was due, in seconds."""
        return self.times[0] - self.due

    @property
    def e2e_latency(self) -> float:
        """Last token minus due, in seconds."""
        return self.times[-1] - self.due

    @property
    def itl(self) -> list[float]:
        """Inter-token latencies in seconds: each gap between consecutive tokens."""
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]

    @property
    def tpot(self) -> float | None:
        """Time per output token after the first, in seconds; None below two tokens."""
        if len(self.times) < 2:
            return None
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1)

    @property
    def decode_rate(self) -> float | None:
        """Tokens a second of this one stream, 1 / TPOT; None where that is undefined."""
        return 1 / self.tpot if self.tpot else None

    @property
    def seconds_a_token(self) -> float:
        """The wall window, from when the request was due to the last token, over the tokens: output
        throughput is 1 over it. With several requests as one trace, it is that of all of them."""
        return self.e2e_latency / len(self.times)

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens a second: their number over the time to the first token."""
        return self.prompt_tokens / self.ttft

    def until(self, tokens: int) -> Trace:
        """The same request, its answer cut to its first `tokens` tokens."""
        return replace(self, times=self.times[:tokens], tokens=self.tokens[:tokens])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the traces folder of a run."""
        return asdict(self)


def record(
    stream: Callable[[], Iterable[int]], prompt_tokens: int = 0, device: Device = "cpu"
) -> Trace:
    """Run a stream of tokens to its end and take the time of each token.

    stream: called after the clock has started, so that its set-up counts. The request is due at
    that moment: a single request in this process waits in no queue.
    """
    times: list[float] = []
    tokens: list[int] = []
    synchronize(device)
    due = time.perf_counter()
    for token in stream():
        synchronize(device)
        times.append(time.perf_counter())
        tokens.append(int(token))
    return Trace(due, tuple(times), prompt_tokens, tuple(tokens))


def record_pushed(
    run: Callable[[Callable[[int], None]], object], prompt_tokens: int = 0, device: Device = "cpu"
) -> Trace:
    """As `record`, for a library that hands its tokens to a callback instead of yielding them."""
    times: list[float] = []
    tokens: list[int] = []

    def push(token: int) -> None:
        synchronize(device)
        times.append(time.perf_counter())
        tokens.append(token)

    synchronize(device)
    due = time.perf_counter()
    run(push)
    return Trace(due, tuple(times), prompt_tokens, tuple(tokens))


def clock(work: Callable[[], object], device: Device = "cpu") -> Trace:
    """Time one call of `work`. The device has finished its queue at the start and at the end."""
    synchronize(device)
    due = time.perf_counter()
    work()
    synchronize(device)
    return Trace(due, (time.perf_counter(),))
