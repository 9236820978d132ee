"""A workload served by an engine: each request gets its own answer; its clock starts when due."""

from __future__ import annotations

import pytest

from labkit.engine.batching import BatchEngine
from labkit.engine.drive import SLO, drive
from labkit.engine.generate import generate
from labkit.engine.served import Sampling, ServedRequest
from labkit.errors import LabkitError, ParameterError
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


def test_every_pass_is_kept_however_few_records_the_engine_keeps(llama):
    engine = BatchEngine(llama.model.decoder, 1, 24, records=3)
    served = drive(engine, CHAT, clock=(clock := Clock()), sleep=clock.sleep)
    tokens = sum(len(trace.tokens) for trace in served.traces.values())
    assert len(served.passes) == tokens == 15
    assert len(engine.records) == 3
    again = drive(engine, CHAT, clock=clock, sleep=clock.sleep)
    assert len(again.passes) == 15


LONG = TimedRequest(0.0, (1,) * 600, 600)


def test_the_window_begins_with_a_request_that_failed(engine):
    """Else the time in which nobody was served would not count, and every rate would be higher."""
    clock, late = Clock(), TimedRequest(9.0, (5, 6, 7), 4)
    served = drive(engine, TimedWorkload("late", (LONG, late)), clock=clock, sleep=clock.sleep)
    assert 9 < served.seconds < 9.5
    assert served.output_throughput == pytest.approx(4 / served.seconds)
    assert served.goodput(SLO(ttft=5.0, tpot=5.0)) == pytest.approx(1 / served.seconds)
    assert served.trace.due == pytest.approx(served.traces[1].due - 9)


def test_where_nobody_is_answered_rates_are_0_and_there_is_no_window(engine):
    served = drive(engine, TimedWorkload("too long", (LONG,)), clock=Clock())
    assert (served.output_throughput, served.goodput(SLO(1.0, 1.0))) == (0, 0)
    for ask in (lambda: served.seconds, lambda: served.trace):
        with pytest.raises(LabkitError, match="no request of 1 was answered; the first: 600"):
            ask()


def test_what_was_not_asked_for_want_of_an_answer_failed_too(engine):
    after = TimedRequest(0.0, (2,), 2, follows=0, takes=Takes.ANSWER)
    last = TimedRequest(0.0, (2,), 2, follows=1, takes=Takes.CONTEXT)
    served = drive(engine, TimedWorkload("lost", (LONG, after, last)), clock=Clock())
    assert sorted(served.failed) == [0, 1, 2]
    assert "takes over the answer" in served.failed[2]


def test_an_engine_that_serves_others_takes_no_workload(engine):
    engine.submit(ServedRequest((1, 2), 2))
    with pytest.raises(ParameterError, match="the engine has requests of its own"):
        drive(engine, CHAT)


def interrupt(logits=None):
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["asking", "sampling"])
def test_an_interrupt_leaves_the_engine_idle(engine, where):
    def ask(due: Due) -> ServedRequest:
        if due.number == 1 and where == "asking":
            interrupt()
        sampling = interrupt if due.number == 1 else Sampling()
        return ServedRequest(due.prompt, due.request.new_tokens, sampling)

    clock = Clock()
    with pytest.raises(KeyboardInterrupt):
        drive(engine, CHAT, ask, clock=clock, sleep=clock.sleep)
    assert engine.idle
    assert engine.cache.book.held == 0
    served = drive(engine, CHAT, clock=clock, sleep=clock.sleep)
    assert sorted(served.traces) == [0, 1, 2, 3]
