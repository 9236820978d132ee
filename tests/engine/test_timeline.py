"""The timeline: each request's states from records, and a picture of them."""

from __future__ import annotations

import pytest

from labkit.engine.records import PassRecord, RequestRows
from labkit.engine.timeline import Span, State, requests_of, spans, sums, within

# Request 2 reads its prompt in two chunks while 1 decodes; 1 is preempted and computed again.
RECORDS = [
    PassRecord(0.0, 1.0, (RequestRows(1, 4, 0, 1),)),
    PassRecord(1.0, 2.0, (RequestRows(1, 0, 1, 1), RequestRows(2, 8, 0, 0))),
    PassRecord(2.5, 3.0, (RequestRows(1, 0, 1, 1), RequestRows(2, 8, 0, 1))),
    PassRecord(3.0, 4.0, (RequestRows(2, 0, 3, 3),), preempted=(1,)),
    PassRecord(4.0, 5.0, (RequestRows(2, 0, 1, 1),)),
    PassRecord(5.0, 6.0, (RequestRows(1, 6, 0, 1),)),
    PassRecord(6.0, 7.0, (RequestRows(2, 0, 1, 1),)),
    PassRecord(7.0, 8.0, (RequestRows(1, 0, 1, 1),)),
]


def test_spans_of_a_small_run() -> None:
    one = [one for one in spans(RECORDS, {1: 0.0, 2: 0.5}) if one.request == 1]
    two = [one for one in spans(RECORDS, {1: 0.0, 2: 0.5}) if one.request == 2]
    assert one == [
        Span(1, State.PREFILL, 0.0, 1.0),
        Span(1, State.DECODE, 1.0, 3.0),
        Span(1, State.PREEMPTED, 3.0, 5.0),
        Span(1, State.AGAIN, 5.0, 6.0),
        Span(1, State.HELD, 6.0, 7.0),
        Span(1, State.DECODE, 7.0, 8.0),
    ]
    assert two == [
        Span(2, State.WAITING, 0.5, 1.0),
        Span(2, State.PREFILL, 1.0, 3.0),
        Span(2, State.VERIFY, 3.0, 4.0),
        Span(2, State.DECODE, 4.0, 5.0),
        Span(2, State.HELD, 5.0, 6.0),
        Span(2, State.DECODE, 6.0, 7.0),
    ]


def test_sums_of_a_small_run() -> None:
    one, two = sums(RECORDS, {2: 0.5})
    assert (one.request, one.due, one.first, one.last) == (1, None, 0.0, 8.0)
    assert (one.passes, one.prefill_rows, one.decode_rows, one.preemptions) == (5, 10, 3, 1)
    assert (two.due, two.passes, two.prefill_rows, two.decode_rows) == (0.5, 5, 16, 5)
    assert requests_of(RECORDS) == [1, 2]


def test_a_part_of_the_time() -> None:
    assert within(RECORDS, 1.0, 3.0) == RECORDS[1:3]
    assert spans([]) == []


def test_records_that_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match="starts at 0.0 s follows one that ends at 1.0 s"):
        spans([RECORDS[0], RECORDS[0]])
