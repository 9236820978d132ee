"""A device whose work is queued, and whose clock lies unless it is waited for.

Handing work over takes next to no time; only waiting lets it pass. `lying` makes the wait return at
once, as `synchronize` did for the name "cuda:0".
"""

from __future__ import annotations

import pytest

HANDED_OVER = 5e-6  # seconds that one call to queue work takes


class QueuedDevice:
    """Its own clock, in seconds, and the work in its queue.

    rate: bytes or operations a second that it really does.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rate: float, lying: bool = False) -> None:
        self.rate, self.lying = rate, lying
        self.now = self.ready = 0.0
        for module in ("limits.work", "limits.clock", "timing.trace"):
            monkeypatch.setattr(f"labkit.{module}.synchronize", self.synchronize)
            monkeypatch.setattr(f"labkit.{module}.time", self)

    def perf_counter(self) -> float:
        return self.now

    def synchronize(self, _: object) -> None:
        if not self.lying:
            self.now = max(self.now, self.ready)

    def queue(self, amount: float) -> None:
        """Hand work over: it begins when what is queued before it is done."""
        self.now += HANDED_OVER
        self.ready = max(self.ready, self.now) + amount / self.rate


class QueuedWork:
    """Work on such a device; `most` is the ceiling of its rate."""

    name, device = "queued work", "cpu"

    def __init__(self, on: QueuedDevice, amount: float = 1e9, most: float = 1e12) -> None:
        self.on, self.amount, self.most = on, amount, most

    def repeat(self, count: int) -> None:
        for _ in range(count):
            self.on.queue(self.amount)

    def check(self, rate: float) -> float:
        from labkit.limits.ceiling import Ceiling

        return Ceiling("a device", "its datasheet", self.most).check_bandwidth(rate)
