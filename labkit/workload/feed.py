"""Hands out the requests of a workload as they come due, and those that wait for others' ends.

It reads no clock: the time is given. So one feed drives an engine, a server, or a simulation.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from typing import NamedTuple

from labkit.errors import ParameterError
from labkit.workload.timed import Takes, TimedRequest, TimedWorkload


class Due(NamedTuple):
    """A request that is due: its number in the workload, when it was due, and its whole prompt."""

    number: int
    due: float
    prompt: list[int]
    request: TimedRequest


class Feed:
    """The requests of one workload, each handed out once.

    stop_ids: tokens that end an answer; the one that did is not taken over by a later prompt.

    `due` hands out those whose time has come. `ended` says that one has its answer; those that
    follow it become due. `done`: all were handed out or dropped, and all that were have ended.
    """

    def __init__(self, workload: TimedWorkload, stop_ids: Collection[int] = ()) -> None:
        self.workload, self._stop_ids = workload, frozenset(stop_ids)
        self.dropped: list[int] = []
        self._followers: dict[int, list[int]] = {}
        self._waiting: list[tuple[float, int]] = []
        self._prompts: dict[int, list[int]] = {}
        self._running: set[int] = set()
        for number, one in enumerate(workload.requests):
            if one.follows is None:
                self._waiting.append((one.due, number))
                self._prompts[number] = one.full_prompt()
            else:
                self._followers.setdefault(one.follows, []).append(number)
        heapq.heapify(self._waiting)

    @property
    def next_due(self) -> float | None:
        """When the next request is due; None where none is before another has ended."""
        return self._waiting[0][0] if self._waiting else None

    @property
    def done(self) -> bool:
        return not self._waiting and not self._running

    def due(self, now: float) -> list[Due]:
        """Requests that are due at `now`, in the order in which they were due."""
        found: list[Due] = []
        while self._waiting and self._waiting[0][0] <= now:
            due, number = heapq.heappop(self._waiting)
            self._running.add(number)
            found.append(Due(number, due, self._prompts[number], self.workload.requests[number]))
        return found

    def ended(self, number: int, now: float, answer: Sequence[int] | None) -> None:
        """Say that a request ended at `now`. answer: its new tokens, or None if it failed.

        What takes over the answer of a failed request is dropped; what only waits for it is due.
        Raises ParameterError for a request that is not running.
        """
        if number not in self._running:
            raise ParameterError(f"request {number} is not running: it cannot end.")
        self._running.discard(number)
        prompt = self._prompts.pop(number)
        if answer and answer[-1] in self._stop_ids:
            answer = answer[:-1]
        for follower in self._followers.pop(number, ()):
            self._release(follower, now, prompt, answer)

    def _release(
        self, number: int, now: float, prompt: Sequence[int], answer: Sequence[int] | None
    ) -> None:
        one = self.workload.requests[number]
        if answer is None and one.takes is not Takes.NOTHING:
            self.dropped.append(number)
            for follower in self._followers.pop(number, ()):
                self._release(follower, now, (), None)
            return
        self._prompts[number] = one.full_prompt(prompt, () if answer is None else answer)
        heapq.heappush(self._waiting, (now + one.due, number))
