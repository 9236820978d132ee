"""What each pass of an engine was made of: the raw record that every figure derives from."""

from __future__ import annotations

from typing import NamedTuple

from labkit.engine.scheduler import Share


class PassRecord(NamedTuple):
    """One step of an engine that ran a pass. Times are seconds of time.perf_counter.

    began, closed: the step. started, ended: the decoder's pass within it. shares: the rows of each
    request. waiting: requests in the queue. room: blocks that could be had, before the pass.
    admitted, preempted: requests that got a slot for it, and that lost theirs.
    """

    began: float
    started: float
    ended: float
    closed: float
    shares: list[Share]
    waiting: int
    room: int
    admitted: list[int]
    preempted: list[int]

    @property
    def rows(self) -> int:
        """Rows of the pass."""
        return sum(share.rows for share in self.shares)

    @property
    def seconds(self) -> float:
        """What the decoder took."""
        return self.ended - self.started

    @property
    def own(self) -> float:
        """What the engine itself took: planning, sampling, text, queues."""
        return self.closed - self.began - self.seconds
