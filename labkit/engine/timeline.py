"""Who was computed when, and who waited: spans of time from the records of passes.

Nothing is measured here. A request is in one state at a time; consecutive passes in which it is in
the same one make one span, and the engine's own time between passes belongs to the span before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple

from labkit.engine.records import PassRecord, RequestRows


class State(StrEnum):
    """What a request does in a pass, or between its passes.

    WAITING: it is due and has no slot yet. PREFILL: rows of its prompt are read. AGAIN: rows of its
    context after it was preempted, until it decodes again. DECODE: one row. VERIFY: more rows than
    one, which a draft guessed. HELD: it has a slot, and no row in the pass. PREEMPTED: it lost
    its slot.
    """

    WAITING = "waiting"
    PREFILL = "prefill"
    AGAIN = "computed again"
    DECODE = "decode"
    VERIFY = "draft verified"
    HELD = "held"
    PREEMPTED = "preempted"


class Span(NamedTuple):
    """A request in one state from `start` to `end`, in seconds of the records."""

    request: int
    state: State
    start: float
    end: float


@dataclass(frozen=True)
class Sum:
    """What the passes did for one request. due: None where it is not known.

    first, last: start of its first pass and end of its last one.
    """

    request: int
    due: float | None
    first: float
    last: float
    passes: int
    prefill_rows: int
    decode_rows: int
    preemptions: int


def _computed(rows: RequestRows, again: bool) -> State:
    if rows.prefill:
        return State.AGAIN if again else State.PREFILL
    return State.VERIFY if rows.decode > 1 else State.DECODE


def requests_of(records: Sequence[PassRecord]) -> list[int]:
    """Requests in the order in which they were first computed."""
    return list(dict.fromkeys(one.request for record in records for one in record.rows))


def spans(records: Sequence[PassRecord], due: Mapping[int, float] | None = None) -> list[Span]:
    """The spans of all requests, by request in the order of their first pass, then by time.

    due: when each request was due, for the time that it waited. Raises ValueError where the records
    overlap or go back.
    """
    _check(records)
    rows = [{one.request: one for one in record.rows} for record in records]
    found: list[Span] = []
    for request in requests_of(records):
        own = [one.get(request) for one in rows]
        found += _spans_of(request, records, own, (due or {}).get(request))
    return found


def _check(records: Sequence[PassRecord]) -> None:
    for before, after in pairwise(records):
        if after.start < before.end:
            raise ValueError(
                f"a pass that starts at {after.start} s follows one that ends at {before.end} s."
            )


def _spans_of(
    request: int,
    records: Sequence[PassRecord],
    own: Sequence[RequestRows | None],
    due: float | None,
) -> list[Span]:
    """The spans of one request, from when it was due to the end of its last pass.

    own: its rows in each record.
    """
    first = next(k for k, rows in enumerate(own) if rows)
    last = max(k for k, rows in enumerate(own) if rows)
    found: list[Span] = []
    if due is not None and due < records[first].start:
        found.append(Span(request, State.WAITING, due, records[first].start))
    again = lost = False  # rows were lost, and are not all back; it has no slot now
    for number in range(first, last + 1):
        record, rows = records[number], own[number]
        if request in record.preempted:
            again = lost = True
        if rows is not None:
            state, lost = _computed(rows, again), False
            again = again and rows.decode == 0
        else:
            state = State.PREEMPTED if lost else State.HELD
        _extend(found, Span(request, state, record.start, record.end))
    return found


def _extend(found: list[Span], span: Span) -> None:
    """Add a span; it goes on with the one before where the state is the same."""
    if not found:
        found.append(span)
        return
    before = found.pop()
    if before.state is span.state:
        found.append(before._replace(end=span.end))
    else:
        found += [before._replace(end=span.start), span]


def sums(records: Sequence[PassRecord], due: Mapping[int, float] | None = None) -> list[Sum]:
    """What the passes did for each request, in the order of their first pass."""
    found: list[Sum] = []
    for request in requests_of(records):
        own = [(record, one) for record in records for one in record.rows if one.request == request]
        found.append(
            Sum(
                request=request,
                due=(due or {}).get(request),
                first=own[0][0].start,
                last=own[-1][0].end,
                passes=len(own),
                prefill_rows=sum(rows.prefill for _, rows in own),
                decode_rows=sum(rows.decode for _, rows in own),
                preemptions=sum(request in record.preempted for record in records),
            )
        )
    return found


def within(records: Sequence[PassRecord], start: float, end: float) -> list[PassRecord]:
    """The records of passes that lie wholly between two times."""
    return [one for one in records if start <= one.start and one.end <= end]
