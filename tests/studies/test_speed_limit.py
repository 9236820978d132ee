"""The arithmetic of the speed limit: parts that add up, and limits of a machine made up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from labkit.errors import ParameterError
from labkit.limits.cost import decode_cost, prefill_cost
from labkit.limits.hardware import Hardware, Reading
from labkit.limits.roofline import Limit
from labkit.report.told.compared import Least
from labkit.studies import speed_limit, speed_limit_calculator
from labkit.studies import speed_limit_ledger as ledger
from labkit.studies import speed_limit_parts as parts
from labkit.studies.speed_limit import PLAIN
from labkit.timing.compare import Bare, Comparison
from labkit.timing.trace import Trace
from tests.tiny import CONFIG


def reading(rate: float) -> Reading:
    return Reading(rate, rate, 0.1, rate / 2)


def machine(bandwidth: float = 1e9, rate: float = 1e11, **more: Any) -> Hardware:
    """One bandwidth for every working set, one rate for every dtype."""
    points = {2**16: reading(bandwidth), 2**28: reading(bandwidth)}
    return Hardware("made up", "cpu", 2, points, {"float32": reading(rate)}, **more)


NOISE = (1.0, 1.02, 0.98, 1.01, 0.99)


def timed(times: dict[str, float], bare: Bare | None = None) -> Comparison:
    """A comparison whose variants take these seconds a token, all of them noisier together."""
    traces = {
        name: [Trace(0.0, (1.0, 1.0 + value * x)) for x in NOISE] for name, value in times.items()
    }
    held = {(PLAIN, "tpot"): bare} if bare else {}
    return Comparison("other", traces, {}, held)


def steps(token: float, products: float, read: float) -> list[parts.Step]:
    times = {PLAIN: token, parts.PRODUCTS: products, "bare read": read / 2}
    return parts.steps(timed(times, Bare("bare read", 2.0)), PLAIN)


def test_the_parts_of_a_token_add_up() -> None:
    found = steps(10e-3, 6e-3, 4e-3)
    assert [step.seconds for step in found] == pytest.approx([4e-3, 6e-3, 10e-3], rel=1e-3)
    assert [step.adds for step in found] == pytest.approx([4e-3, 2e-3, 4e-3], rel=1e-3)
    assert [str(step.over) for step in found[1:]] == ["1.50x [1.50, 1.50]", "1.67x [1.67, 1.67]"]
    rows = parts.rows(found)
    assert [row["share of the token"] for row in rows] == ["40%", "20%", "40%"]
    assert [row["time a token"] for row in rows] == ["4 ms", "6 ms", "10 ms"]


def test_a_part_that_is_not_there_is_told_as_not_measurable() -> None:
    found = steps(10e-3, 3e-3, 4e-3)  # the products took less than the bare read
    assert found[1].adds is None
    row = parts.rows(found)[1]
    assert (row["adds"], row["share of the token"]) == ("not measurable", "–")
    told = parts.sentence(found, 100, 2e-6)
    assert "The products take 0.75x [0.75, 0.75] the time of the bare read" in told
    assert "100 of these take 200 µs" in told
    same = parts.sentence(steps(3e-3, 3e-3, 2e-3), 100, 2e-6)
    assert "Everything else in a token: not measurable" in same


def test_without_a_bare_read_the_products_come_first() -> None:
    found = parts.steps(timed({PLAIN: 2.0, parts.PRODUCTS: 1.0}), PLAIN)
    assert [step.name for step in found] == [parts.PRODUCTS, "the whole token"]
    gone = timed({PLAIN: 2.0, parts.PRODUCTS: 1.0}, Bare("bare read", 1.0))
    assert len(parts.steps(gone, PLAIN)) == 2


def test_repeated_work_gives_a_timestamp_each() -> None:
    done: list[int] = []
    trace = parts.repeated(lambda: done.append(1), 3, "cpu")(1)
    assert len(done) == len(trace.times) == 3
    assert trace.tpot is not None


def test_the_bare_read_of_the_rounds_gives_a_bandwidth() -> None:
    cost = decode_cost(CONFIG, 10)
    found = timed({PLAIN: 4.0, "bare read": 1.0}, Bare("bare read", 2.0))
    assert ledger.bare_bandwidth(found, PLAIN, cost, "memory") == pytest.approx(
        cost.read_bytes / 2.0, rel=1e-3
    )
    assert ledger.bare_bandwidth(found, PLAIN, cost, "compute") is None
    assert ledger.bare_bandwidth(timed({PLAIN: 4.0}), PLAIN, cost, "memory") is None
    told = ledger.shares(found, [PLAIN])
    assert "plain decoder reached 50% [50, 50] of what the bare read reached" in told
    assert "no share can be told" in ledger.shares(timed({PLAIN: 4.0}), [PLAIN])


def test_a_variant_is_told_with_its_share_and_a_baseline_without_a_speedup() -> None:
    times = {PLAIN: 4.0, "bare read": 1.0, "other": 8.0, "other (again)": 8.0}
    found = timed(times, Bare("bare read", 2.0))
    row = ledger.held_row(found, PLAIN, "decode", 0.4)
    assert row["speedup"] == "2.00x [2.00, 2.00]"
    assert row["share of the bare work"] == "50% [50, 50]"
    assert row["of its limit"] == "40%"
    base = ledger.held_row(found, "other", "decode", None)
    assert (base["speedup"], base["could have seen"], base["of its limit"]) == ("–", "–", "–")


def test_a_limit_is_told_with_its_band() -> None:
    told = ledger.limit_caption("decode", Least(0.01, 0.02), "bare read of 9 MB")
    assert told == (
        "Decode. Bare work: bare read of 9 MB. Limit: 10 ms, and 20 ms at the slowest sustained "
        "rates of this run"
    )
    assert ledger.limit_caption("decode", Least(0.01), "x").endswith("Limit: 10 ms")
    beaten = ledger.limit_caption("decode", None, "x")
    assert beaten.endswith("Limit: none is told, for a variant was faster than it")
    row = ledger.limit_row("decode", Limit(0.01, 0.001), 0.02, 1)
    assert (row["limit, tok/s"], row["at the slowest rates"], row["set by"]) == (100, 50, "memory")


def test_the_passes_are_a_prefill_an_early_and_the_last_step() -> None:
    found = ledger.passes(CONFIG, 12, "bfloat16")
    assert list(found.values()) == [
        (prefill_cost(CONFIG, 12, dtype="bfloat16"), 12),
        (decode_cost(CONFIG, 12, dtype="bfloat16"), 1),
        (decode_cost(CONFIG, CONFIG.max_positions - 1, dtype="bfloat16"), 1),
    ]


def test_the_limit_rises_with_batch_until_arithmetic_sets_it() -> None:
    here, one = machine(), decode_cost(CONFIG, 0)
    (rates,) = ledger.rates_by_batch(CONFIG, here, "float32", [0], [1, 2, 10**6]).values()
    assert rates[0] == pytest.approx(1e9 / one.read_bytes)
    assert rates[1] == pytest.approx(2 * rates[0])  # memory bound: the weights are read for both
    assert rates[2] == pytest.approx(1e11 / one.flops)


def test_the_limit_of_a_stream_falls_with_context_by_the_bytes_of_its_cache() -> None:
    (rates,) = ledger.rates_by_context(CONFIG, machine(), "float32", [0, 100], [1]).values()
    more = 100 * CONFIG.kv_bytes_per_token(4)
    assert 1e9 / rates[1] - 1e9 / rates[0] == pytest.approx(more)


def test_the_machine_is_told_by_threads_or_as_a_whole() -> None:
    both = {"bandwidth": reading(2e9), "matrix": reading(3e9)}
    (row,) = ledger.thread_rows(machine(by_threads={2: both}))
    assert row == {
        "threads": 2, "memory, GB/s": 2.0, "its slowest": 1.0,
        "float32 product, GFLOP/s": 3.0, "slowest product": 1.5,
    }  # fmt: skip
    (whole,) = ledger.thread_rows(machine())
    assert list(whole.values()) == [1.0, 0.5, 100.0, 50.0]


def test_the_sliders_answer_for_every_machine_and_model(monkeypatch: pytest.MonkeyPatch) -> None:
    import ipywidgets

    given: dict[str, Any] = {}
    shown: list[Any] = []
    monkeypatch.setattr(
        ipywidgets, "interact", lambda answer, **controls: given.update(controls, answer=answer)
    )
    monkeypatch.setattr(speed_limit_calculator, "table", shown.append)
    speed_limit_calculator.show_sliders(machine(capacity=10**9))
    answer = given.pop("answer")
    assert list(given) == ["machine", "shape", "dtype", "context", "batch"]
    for name in given["machine"]:
        for shape in given["shape"]:
            for dtype in given["dtype"]:
                answer(name, shape, dtype, 1024, 1)
    assert len(shown) == len(given["machine"]) * len(given["shape"]) * len(given["dtype"])
    assert all(list(rows[0]) == ["holds", "decode", "prefill", "note"] for rows in shown)


def test_the_sliders_are_real_widgets(capsys: pytest.CaptureFixture[str]) -> None:
    """ipywidgets accepts the controls: it refuses what it cannot turn into one."""
    speed_limit_calculator.show_sliders(machine())
    assert "interactive(" in capsys.readouterr().out


def test_a_limit_of_arithmetic_alone_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    speed_limit_calculator.show_limits(machine(capacity=10**12))
    out = capsys.readouterr().out
    assert "this one counts arithmetic alone" in out
    assert "384 MB: AMD EPYC 9654 product page" in out


@pytest.mark.parametrize("values", [{"memory_seconds": 0.0}, {"new_tokens": 1}])
def test_values_that_leave_nothing_to_show_are_refused_at_once(values: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="00_speed_limit: .*; allowed: "):
        speed_limit.Study(model="not looked at", **values)


@pytest.mark.parametrize("is_live", [True, False])
def test_sliders_are_shown_in_a_live_session_only(
    is_live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Hardware] = []
    monkeypatch.setattr(speed_limit_calculator, "show_sliders", shown.append)
    monkeypatch.setattr(speed_limit, "live", lambda: is_live)
    study: Any = SimpleNamespace(lab=SimpleNamespace(hardware=machine()))
    speed_limit.Study.sliders(study)
    assert len(shown) == is_live
