"""Drives an engine with a workload in real time, and records what every request saw.

Requests are submitted when they are due, whether the engine keeps up or not. Their clocks start at
the time they were due, so that waiting in the queue counts.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from labkit.engine.batching import BatchEngine
from labkit.engine.records import PassRecord
from labkit.engine.served import Event, Finish, Handle, ServedRequest
from labkit.errors import LabkitError, ParameterError
from labkit.timing.trace import Trace
from labkit.workload.feed import Due, Feed
from labkit.workload.timed import TimedWorkload

Ask = Callable[[Due], ServedRequest]


@dataclass(frozen=True)
class SLO:
    """What a user accepts: seconds to the first token, and seconds a token after that."""

    ttft: float
    tpot: float

    def met(self, trace: Trace) -> bool:
        """Whether a request was served well enough; without a TPOT it is judged on TTFT alone."""
        return trace.ttft <= self.ttft and (trace.tpot is None or trace.tpot <= self.tpot)


@dataclass
class Served:
    """What a workload saw.

    traces: by number of the request. failed: the reason of each other. missed: when those of them
    were due that were asked. passes: all of them, in order.
    """

    traces: dict[int, Trace] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    missed: list[float] = field(default_factory=list)
    passes: list[PassRecord] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The wall window: from the first request that was due, answered or not, to the last token.

        Raises LabkitError where no request was answered.
        """
        return self.trace.e2e_latency

    @property
    def output_throughput(self) -> float:
        """Output tokens a second over the wall window, its ramp and its tail included."""
        tokens = sum(len(trace.tokens) for trace in self.traces.values())
        return tokens / self.seconds if self.traces else 0.0

    def goodput(self, slo: SLO) -> float:
        """Requests a second that met the SLO; a failed one did not."""
        met = sum(map(slo.met, self.traces.values()))
        return met / self.seconds if self.traces else 0.0

    @property
    def trace(self) -> Trace:
        """All tokens of all requests as one trace, for a comparison of whole workloads.

        Raises LabkitError where no request was answered.
        """
        times = sorted(time for trace in self.traces.values() for time in trace.times)
        if not times:
            reason = next(iter(self.failed.values()), "none was asked")
            raise LabkitError(f"no request of {len(self.failed)} was answered; the first: {reason}")
        due = min((*self.missed, *(trace.due for trace in self.traces.values())))
        return Trace(due, tuple(times))


def greedily(due: Due) -> ServedRequest:
    """The request as it is asked, answered greedily, to its full length."""
    return ServedRequest(due.prompt, due.request.new_tokens)


def drive(
    engine: BatchEngine,
    workload: TimedWorkload,
    ask: Ask = greedily,
    stop_ids: Collection[int] = (),
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Served:
    """Serve a whole workload. The engine must be idle; it is idle again at the end.

    ask: from a request that is due to what the engine is asked. stop_ids: tokens that end an
    answer, which no later prompt takes over. A request that the engine refuses or that fails is
    listed in `failed`, and so are those that take over its answer; the others go on. Where it is
    interrupted, it cancels what it has asked. Raises ParameterError for an engine that is not idle.
    """
    return _Drive(engine, workload, ask, stop_ids, clock, sleep).run()


class _Drive:
    """One workload on its way through an engine."""

    def __init__(
        self,
        engine: BatchEngine,
        workload: TimedWorkload,
        ask: Ask,
        stop_ids: Collection[int],
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self.engine, self.ask, self.clock, self.sleep = engine, ask, clock, sleep
        self.feed, self.served = Feed(workload, stop_ids), Served()
        self.handles: dict[int, tuple[Due, Handle]] = {}
        self.times: dict[int, list[float]] = {}
        self.made: list[Callable[[], PassRecord]] = []  # an engine keeps the last ones only
        self.start = 0.0

    def run(self) -> Served:
        if not self.engine.idle:
            raise ParameterError(
                "the engine has requests of its own: let it step until it is idle before it is "
                "given a workload."
            )
        self.start = self.clock()
        try:
            while not self.feed.done:
                self._submit(self.clock() - self.start)
                if self.engine.idle:
                    self._wait()
                else:
                    self._step()
        except BaseException:
            self._abandon()
            raise
        self.served.passes += [make() for make in self.made]
        lost = "it takes over the answer of a request that failed."
        self.served.failed |= dict.fromkeys(self.feed.dropped, lost)
        return self.served

    def _step(self) -> None:
        recorder = self.engine.recorder
        before = recorder.last
        events = self.engine.step()
        now = self.clock()
        if recorder.last is not None and recorder.last is not before:
            self.made.append(recorder.last)
        for event in events:
            self._note(event, now)

    def _abandon(self) -> None:
        for _, handle in self.handles.values():
            handle.cancel()
        with contextlib.suppress(Exception):  # what interrupted is told
            self.engine.step()

    def _wait(self) -> None:
        due = self.feed.next_due
        if due is not None:
            self.sleep(max(0.0, self.start + due - self.clock()))

    def _submit(self, now: float) -> None:
        for due in self.feed.due(now):
            try:
                handle = self.engine.submit(self.ask(due))
            except LabkitError as error:
                self._failed(due, str(error), now)
                continue
            self.handles[handle.number] = due, handle
            self.times[handle.number] = []

    def _note(self, event: Event, now: float) -> None:
        """The tokens of a pass came at its end, all of them."""
        self.times[event.number] += [now] * len(event.tokens)
        if event.finish is None:
            return
        due, handle = self.handles.pop(event.number)
        times = self.times.pop(event.number)
        if event.finish is Finish.FAILED or not times:
            self._failed(due, str(handle.error or event.finish), now - self.start)
            return
        self.served.traces[due.number] = Trace(
            self.start + due.due, tuple(times), len(due.prompt), tuple(handle.tokens)
        )
        self.feed.ended(due.number, now - self.start, handle.tokens)

    def _failed(self, due: Due, reason: str, now: float) -> None:
        self.served.failed[due.number] = reason
        self.served.missed.append(self.start + due.due)
        self.feed.ended(due.number, now, None)
