"""Metrics against timestamps written by hand."""

import pytest

from labkit.timing.trace import Trace, clock, record, record_pushed


def test_metrics_of_hand_written_timestamps():
    trace = Trace(due=10.0, times=(10.5, 10.6, 10.8, 11.1), prompt_tokens=100)
    assert trace.ttft == pytest.approx(0.5)
    assert trace.itl == pytest.approx([0.1, 0.2, 0.3])
    assert trace.tpot == pytest.approx(0.2)
    assert trace.decode_rate == pytest.approx(5.0)
    assert trace.e2e_latency == pytest.approx(1.1)
    assert trace.e2e_latency == pytest.approx(trace.ttft + trace.tpot * 3)
    assert trace.prefill_rate == pytest.approx(200.0)


def test_tpot_of_one_token_is_undefined_not_zero():
    trace = Trace(due=0.0, times=(1.0,))
    assert trace.tpot is None
    assert trace.decode_rate is None
    assert trace.itl == []


def test_tokens_that_come_together_have_gap_zero():
    trace = Trace(due=0.0, times=(1.0, 2.0, 2.0))
    assert trace.itl == [1.0, 0.0]
    assert trace.tpot == pytest.approx(0.5)
    assert Trace(due=0.0, times=(1.0, 1.0)).decode_rate is None


@pytest.mark.parametrize("times", [(), (0.5,), (2.0, 1.5)])
def test_impossible_timestamps_are_refused(times):
    with pytest.raises(ValueError, match="trace"):
        Trace(due=1.0, times=times)


def test_record_starts_the_clock_before_the_stream_is_made():
    order = []

    def stream():
        order.append("made")
        yield from (7, 8, 9)

    trace = record(stream, prompt_tokens=3)
    assert order == ["made"]
    assert trace.tokens == (7, 8, 9)
    assert trace.due <= trace.times[0] <= trace.times[1] <= trace.times[2]


def test_pushed_tokens_are_recorded_like_yielded_ones():
    trace = record_pushed(lambda push: [push(token) for token in (4, 5)], prompt_tokens=2)
    assert trace.tokens == (4, 5)
    assert len(trace.times) == 2


def test_a_stream_that_yields_nothing_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        record(lambda: iter(()))


def test_clock_gives_one_timestamp():
    assert len(clock(lambda: None).times) == 1


def test_a_request_that_ended_earlier():
    trace = Trace(1.0, (1.5, 1.6, 1.8), prompt_tokens=4, tokens=(7, 8, 9))
    assert trace.until(2) == Trace(1.0, (1.5, 1.6), prompt_tokens=4, tokens=(7, 8))
    assert trace.until(9) == trace


def test_output_throughput_counts_the_whole_window():
    trace = Trace(due=10.0, times=(10.5, 11.0, 11.0, 12.0))  # tokens of several requests
    assert trace.seconds_a_token == pytest.approx(0.5)
    assert Trace(due=0.0, times=(2.0,)).seconds_a_token == 2.0
