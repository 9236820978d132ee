"""The feed: every request once, in its time, and after what it follows."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import ParameterError
from labkit.workload.feed import Feed
from labkit.workload.timed import Takes, TimedRequest, TimedWorkload


def request(due: float, follows: int | None = None, takes: Takes = Takes.NOTHING) -> TimedRequest:
    return TimedRequest(due, (5, 6), 3, follows=follows, takes=takes)


def test_requests_come_when_they_are_due() -> None:
    feed = Feed(TimedWorkload("open", (request(0.0), request(1.0), request(1.0), request(3.0))))
    assert feed.next_due == 0.0
    assert [one.number for one in feed.due(0.5)] == [0]
    assert feed.due(0.9) == []
    assert [(one.number, one.due) for one in feed.due(2.0)] == [(1, 1.0), (2, 1.0)]
    assert feed.next_due == 3.0
    assert [one.number for one in feed.due(3.0)] == [3]
    assert feed.next_due is None
    assert not feed.done
    for number in range(4):
        feed.ended(number, 4.0, [1])
    assert feed.done


def test_a_chat_goes_on_with_its_real_answers() -> None:
    chat = (request(1.0), request(2.0, 0, Takes.CONTEXT), request(0.5, 1, Takes.ANSWER))
    feed = Feed(TimedWorkload("chat", chat))
    assert feed.due(1.0)[0].prompt == [5, 6]
    assert feed.next_due is None
    feed.ended(0, 10.0, [7])
    assert feed.next_due == 12.0
    assert feed.due(12.0)[0].prompt == [5, 6, 7, 5, 6]
    feed.ended(1, 20.0, [8, 9])
    assert feed.due(21.0)[0].prompt == [5, 6, 8, 9]


def test_the_stop_token_that_ended_an_answer_is_not_taken_over() -> None:
    made = TimedWorkload("stops", (request(0.0), request(0.0, 0, Takes.ANSWER)))
    for answer, taken in (([7, 2], [7]), ([7, 2, 7], [7, 2, 7]), ([2], []), ([], [])):
        feed = Feed(made, stop_ids=[2])
        feed.due(0.0)
        feed.ended(0, 0.0, answer)
        assert feed.due(0.0)[0].prompt == [5, 6, *taken]


def test_a_failed_request_takes_its_chat_along_and_nobody_else() -> None:
    made = (
        request(0.0),
        request(0.0, 0, Takes.CONTEXT),
        request(0.0, 1, Takes.ANSWER),
        request(2.0, 2),  # the same user's next question needs no answer
        request(0.0, 0),
    )
    feed = Feed(TimedWorkload("failing", made))
    feed.due(0.0)
    feed.ended(0, 1.0, None)
    assert feed.dropped == [1, 2]
    assert [(one.number, one.due) for one in feed.due(5.0)] == [(4, 1.0), (3, 3.0)]


def test_what_does_not_run_cannot_end() -> None:
    feed = Feed(TimedWorkload("open", (request(1.0),)))
    with pytest.raises(ParameterError, match="request 0 is not running"):
        feed.ended(0, 0.0, [1])
    feed.due(1.0)
    feed.ended(0, 2.0, [1])
    with pytest.raises(ParameterError, match="not running"):
        feed.ended(0, 2.0, [1])


@st.composite
def workloads(draw: st.DrawFn) -> TimedWorkload:
    requests: list[TimedRequest] = []
    due = 0.0
    for number in range(draw(st.integers(1, 12))):
        follows = draw(st.none() | st.integers(0, number - 1)) if number else None
        gap = draw(st.sampled_from([0.0, 0.5, 2.0]))
        due = due if follows is not None else due + gap
        takes = draw(st.sampled_from(list(Takes))) if follows is not None else Takes.NOTHING
        requests.append(request(gap if follows is not None else due, follows, takes))
    return TimedWorkload("drawn", tuple(requests))


@settings(deadline=None)
@given(workloads(), st.data())
def test_every_request_is_handed_out_once_or_dropped(
    made: TimedWorkload, data: st.DataObject
) -> None:
    feed, seen, now = Feed(made), list[int](), 0.0
    running: list[int] = []
    ends: dict[int, float] = {}
    while not feed.done:
        for one in feed.due(now):
            assert one.due <= now
            if one.request.follows is not None:
                assert one.due == ends[one.request.follows] + one.request.due
            seen.append(one.number)
            running.append(one.number)
        now += data.draw(st.sampled_from([1.0, 5.0]))
        if running and (feed.next_due is None or data.draw(st.booleans())):
            number = running.pop(data.draw(st.integers(0, len(running) - 1)))
            ends[number] = now
            feed.ended(number, now, data.draw(st.sampled_from([None, [1, 2]])))
            for dropped in feed.dropped:
                ends.setdefault(dropped, now)
    assert sorted(seen + feed.dropped) == list(range(len(made.requests)))
