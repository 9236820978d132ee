"""An engine for many requests: each pass has rows of all of them, each gets its answer alone.

`submit` a request, call `step` until the engine is idle. A step plans a pass (scheduler.py), runs
it, and puts each request's new tokens into its own queue. With a decoder that gives a row the same
bits whatever shares its pass, every answer has the bits that the request would get alone. One
thread calls `step`; `submit` and `cancel` may come from any.
"""

from __future__ import annotations

import itertools
import threading
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from labkit.engine.entry import Entry
from labkit.engine.intake import Intake
from labkit.engine.isolated import isolated
from labkit.engine.pace import Load, Pace
from labkit.engine.passes import Passes
from labkit.engine.prefix import PrefixCache
from labkit.engine.recall import Recall
from labkit.engine.records import PassRecord, Recorder, RequestRows
from labkit.engine.scheduler import (
    Budget,
    Plan,
    Policy,
    Share,
    State,
    Waiting,
    has_rows_left,
    plan_pass,
)
from labkit.engine.sequence import Answer
from labkit.engine.served import Event, Finish, Handle, ServedRequest
from labkit.errors import LabkitError, ParameterError
from labkit.model.cache.blocks import NoBlocks
from labkit.model.cache.paged import PagedCache
from labkit.model.forward import Forward, Paged, offers
from labkit.model.rows import Part

_WINDOW = 4  # of the queue, at least: so many does the scheduler see
_ORDER = attrgetter("number")


class BatchEngine:
    """Serves requests in the slots of one paged cache.

    slots: requests that are computed at the same time. blocks: memory, in blocks of the cache.
    policy: plan_pass, or its twin plan_static. budget: of a pass, fixed or by measured costs.
    prefix: makes the prefix cache for the engine's cache; None: no request uses another's blocks.
    recall: answers of identical requests. tokenizer: for text. records: passes that are kept.
    Raises ParameterError for a decoder without a paged cache.
    """

    def __init__(
        self,
        decoder: Forward,
        slots: int,
        blocks: int,
        *,
        policy: Policy = plan_pass,
        budget: Budget | Pace | None = None,
        prefix: Callable[[PagedCache], PrefixCache] | None = None,
        recall: Recall | None = None,
        tokenizer: Any = None,
        records: int = 10_000,
    ) -> None:
        paged = offers(decoder, Paged)
        if paged is None:
            raise ParameterError(
                f"{type(decoder).__name__} has no paged cache: it needs `new_paged_cache`, as the "
                "plain and the fused decoder have."
            )
        self.decoder, self.cache = decoder, paged.new_paged_cache(slots, blocks)
        self.prefix = None if prefix is None else prefix(self.cache)
        self._passes, self._policy, self._recall = Passes(decoder, self.cache), policy, recall
        self._intake = Intake(decoder, self.cache, tokenizer, self.prefix is not None)
        self._pace = budget if isinstance(budget, Pace) else None
        self._budget = budget if isinstance(budget, Budget) else Budget()
        self._free = list(reversed(range(slots)))
        self._numbers = itertools.count()
        self._inbox: deque[Entry] = deque()
        self._cancels: deque[int] = deque()
        self._entries: dict[int, Entry] = {}
        self._waiting: list[Entry] = []  # both in the order of arrival
        self._running: list[Entry] = []
        self.recorder = Recorder(self.cache.book, records)
        self._stepping = threading.Lock()

    @property
    def idle(self) -> bool:
        """Whether no request is left."""
        return not self._entries and not self._inbox

    @property
    def waiting(self) -> list[int]:
        """The numbers of the requests in the queue, the first to be served first."""
        return [entry.number for entry in (*self._waiting, *self._inbox.copy())]

    @property
    def running(self) -> list[int]:
        """The numbers of the requests that have a slot."""
        return [entry.number for entry in self._running]

    @property
    def records(self) -> list[PassRecord]:
        """What the last passes were made of."""
        return self.recorder.made()

    def submit(self, request: ServedRequest) -> Handle:
        """Take a request into the queue.

        Raises at once, and nothing is queued: ModelError for a prompt that the model cannot serve,
        Refused for one that the memory can never hold, ParameterError for impossible settings.
        """
        self._intake.check(request)
        handle = Handle(next(self._numbers), request, self.cancel)
        entry = self._intake.entry(handle)
        if self._recall is not None:
            entry.key = self._recall.key(request)
            entry.answer = self._recall.find(entry.key)
        self._inbox.append(entry)
        return handle

    def cancel(self, number: int) -> None:
        """End a request before the next pass. Unknown numbers, and those that are over, pass."""
        self._cancels.append(number)

    def preempt(self, number: int) -> None:
        """Let a running request give up its slot, as where memory runs out; between steps only."""
        if self._stepping.locked() or number not in self.running:
            raise LabkitError(f"request {number} has no slot to lose, or a step is under way.")
        self._preempt(self._entries[number])

    def step(self) -> list[Event]:
        """One pass for all requests that are planned for it; the new tokens of each.

        Raises LabkitError within another step: from a sampler or a draft, or on another thread.
        """
        if not self._stepping.acquire(blocking=False):
            raise LabkitError("a step is under way: let one thread call step, one after another.")
        try:
            began = time.perf_counter()
            events: list[Event] = []
            self._settle(events)
            plan = self._plan(events)
            if plan.shares:
                self._run(plan, began, events)
            return events
        finally:
            self._stepping.release()

    def _settle(self, events: list[Event]) -> None:
        """Take in what came from outside since the last step."""
        while self._inbox:
            entry = self._inbox.popleft()
            if entry.answer is not None:
                events.append(entry.recall(entry.answer))
                continue
            self._entries[entry.number] = entry
            insort(self._waiting, entry, key=_ORDER)
        while self._cancels:
            if (cancelled := self._entries.get(self._cancels.popleft())) is not None:
                self._end(cancelled, events, Finish.CANCELLED)

    def _plan(self, events: list[Event]) -> Plan:
        """The next pass, after all preemptions that it needs."""
        while True:
            state, budget = self._state()
            plan = self._policy(state, budget)
            if not plan.preempted:
                return plan
            if len(self._running) == 1:  # nobody else holds memory that it could wait for
                error = NoBlocks("the request found too few blocks, though nobody else runs.")
                self._end(self._running[0], events, Finish.FAILED, error)
            else:
                for number in plan.preempted:
                    self._preempt(self._entries[number])

    def _state(self) -> tuple[State, Budget]:
        running = [entry.running() for entry in self._running]
        budget = self._budget if self._pace is None else self._pace.budget(running)
        free, size = len(self._free), self.cache.block_size
        waiting: list[Waiting] = []
        if self._waiting and free and has_rows_left(running, budget):
            waiting = [one.waiting(self.prefix) for one in self._waiting[: max(free, _WINDOW)]]
        return State(running, waiting, self.cache.room, free, size), budget

    def _run(self, plan: Plan, began: float, events: list[Event]) -> None:
        """Run a planned pass and hand out its answers."""
        for number in plan.admitted:
            self._admit(self._entries[number], events)
        entries, parts, rows = self._parts(plan.shares, events)
        started = time.perf_counter()
        answers = isolated(self._passes, parts, [entry.decoding.greedy for entry in entries])
        ended = time.perf_counter()
        held = self.recorder.held(len(self._waiting))
        if self._pace is not None and parts:
            self._pace.learn(Load.of(parts), ended - started, any(one.prefill for one in rows))
        for entry, answer in zip(entries, answers, strict=True):
            self._take(entry, answer, events)
        own = time.perf_counter() - began - (ended - started)
        self.recorder.note(started, ended, rows, held, own)

    def _admit(self, entry: Entry, events: list[Event]) -> None:
        """Give a request a slot; one whose blocks cannot be read fails alone."""
        slot = self._free.pop()
        try:
            entry.begin(slot, self.prefix)
        except BaseException as error:
            self.cache.release(slot)
            self._free.append(slot)
            if not isinstance(error, Exception):  # from outside, while blocks were read
                raise
            self._end(entry, events, Finish.FAILED, error)
            return
        self._waiting.remove(entry)
        insort(self._running, entry, key=_ORDER)
        for other in self._waiting:
            other.passed += other.number < entry.number

    def _parts(
        self, shares: Sequence[Share], events: list[Event]
    ) -> tuple[list[Entry], list[Part], list[RequestRows]]:
        """What each request sends to the pass; one that cannot plan fails alone."""
        entries, parts, rows = [], [], []
        for share in shares:
            if (entry := self._entries.get(share.number)) is None:
                continue  # it failed when it was admitted
            try:
                part = entry.decoding.plan(share.rows)
            except Exception as error:
                self._end(entry, events, Finish.FAILED, error)
                continue
            count = len(part.tokens)  # it may have drafted less than it was given
            read = count if entry.reading else 0
            entries.append(entry)
            parts.append(part)
            rows.append(RequestRows(share.number, read, count - read, part.wanted))
        return entries, parts, rows

    def _take(self, entry: Entry, answer: Answer | Exception, events: list[Event]) -> None:
        """Hand a request its answer; an error ends this request and no other."""
        try:
            if isinstance(answer, Exception):
                raise answer
            if not (tokens := entry.decoding.take(answer)):
                return
            entry.reading = False
            events.append(entry.deliver(tokens))
        except Exception as error:
            self._end(entry, events, Finish.FAILED, error)
            return
        if entry.decoding.done:
            self._end(entry, events)
        elif not entry.published:
            entry.publish(self.prefix)

    def _end(
        self,
        entry: Entry,
        events: list[Event],
        finish: Finish | None = None,
        error: Exception | None = None,
    ) -> None:
        """Remove a request. finish: where its last event is still to come."""
        if finish is not None:
            events.append(entry.end(finish, error))
        del self._entries[entry.number]
        if entry.decoding.slot < 0:
            self._waiting.remove(entry)
            return
        if finish is Finish.CANCELLED:
            self.recorder.cancelled.append(entry.number)
        if error is None:
            entry.decoding.finish(len(entry.handle.tokens))
        self._vacate(entry, keep=error is None)
        if finish is None and self._recall is not None:
            self._recall.keep(entry.key, entry.handle)

    def _preempt(self, entry: Entry) -> None:
        self._vacate(entry)
        entry.leave()
        insort(self._waiting, entry, key=_ORDER)
        self.recorder.preempted.append(entry.number)

    def _vacate(self, entry: Entry, keep: bool = True) -> None:
        """Empty a request's slot; its whole blocks stay in the prefix cache if they may."""
        slot = entry.decoding.slot
        if keep and entry.reuse:
            entry.publish(self.prefix)
        self.cache.release(slot)
        entry.decoding.slot = -1
        self._free.append(slot)
        self._running.remove(entry)
