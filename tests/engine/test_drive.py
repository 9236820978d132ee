"""A workload served by an engine: each request gets its own answer; its clock starts when due."""

from __future__ import annotations

import pytest

from labkit.engine.batching import BatchEngine
from labkit.engine.drive import SLO, drive
from labkit.engine.generate import generate
from labkit.engine.served import ServedRequest
from labkit.timing.trace import Trace
from labkit.workload.feed import Due
from labkit.workload.timed import Takes, TimedRequest, TimedWorkload


class Clock:
    """Stands still while nothing is asked of it; a sleep moves it on."""

    def __init__(self) -> None:
        self.now, self.slept = 100.0, []

    def __call__(self) -> float:
        self.now += 0.001
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


CHAT = TimedWorkload(
    "chat",
    (
        TimedRequest(0.0, (5, 6, 7), 4),
        TimedRequest(0.0, (9, 8), 6),
        TimedRequest(0.5, (11, 12), 3, follows=0, takes=Takes.CONTEXT),
        TimedRequest(9.0, (1, 2, 3, 4), 2),
    ),
)


@pytest.fixture
def engine(llama):
    return BatchEngine(llama.model.decoder, 3, 24)


def test_each_request_gets_the_answer_that_it_gets_alone(llama, engine):
    clock = Clock()
    served = drive(engine, CHAT, clock=clock, sleep=clock.sleep)
    decoder, before = llama.model.decoder, served.traces[0].tokens
    for number, prompt in ((0, (5, 6, 7)), (1, (9, 8)), (2, (5, 6, 7, *before, 11, 12))):
        trace = served.traces[number]
        alone = list(generate(decoder, prompt, CHAT.requests[number].new_tokens))
        assert list(trace.tokens) == alone
        assert trace.prompt_tokens == len(prompt)
    assert engine.idle
    assert not served.failed
    assert served.passes


def test_clocks_start_when_a_request_is_due_and_nobody_waits_for_longer(engine):
    clock = Clock()
    served = drive(engine, CHAT, clock=clock, sleep=clock.sleep)
    first, last, follower = served.traces[0], served.traces[3], served.traces[2]
    assert last.due - first.due == pytest.approx(9.0)
    assert follower.due == pytest.approx(first.times[-1] + 0.5, abs=0.01)
    assert 0 < last.ttft < 0.1
    assert sum(clock.slept) > 8


def test_what_the_engine_refuses_is_listed_and_the_rest_goes_on(engine):
    long = TimedRequest(0.0, (1,) * 600, 600)
    workload = TimedWorkload("too long", (long, TimedRequest(0.0, (5, 6, 7), 4)))
    served = drive(engine, workload, clock=Clock())
    assert list(served.traces) == [1]
    assert list(served.failed) == [0]


def test_what_follows_a_failed_request_is_not_asked(engine):
    long = TimedRequest(0.0, (1,) * 600, 600)
    after = TimedRequest(0.0, (2,), 2, follows=0, takes=Takes.ANSWER)
    workload = TimedWorkload("lost", (long, after, TimedRequest(0.0, (5, 6, 7), 4)))
    assert list(drive(engine, workload, clock=Clock()).traces) == [2]


def test_throughput_and_goodput_of_hand_written_timestamps(engine):
    clock = Clock()
    served = drive(engine, CHAT, clock=clock, sleep=clock.sleep)
    served.traces = {
        0: Trace(0.0, (0.5, 0.6, 0.7), 3, (1, 2, 3)),
        1: Trace(0.0, (1.5, 1.6), 3, (1, 2)),
        2: Trace(1.0, (1.1, 2.0), 3, (1, 2)),
    }
    assert served.seconds == 2.0
    assert served.output_throughput == 3.5
    assert served.goodput(SLO(ttft=1.0, tpot=0.2)) == 0.5  # late; then too slow
    assert served.goodput(SLO(ttft=1.0, tpot=1.0)) == 1.0


def short(due: Due) -> ServedRequest:
    return ServedRequest(due.prompt, 1)


def test_a_request_may_be_asked_in_another_way(engine):
    clock = Clock()
    served = drive(engine, CHAT, short, clock=clock, sleep=clock.sleep)
    assert {len(trace.tokens) for trace in served.traces.values()} == {1}
