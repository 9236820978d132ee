"""The arithmetic of the speed limit: parts that add up, and limits of a machine made up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from labkit.limits.cost import decode_cost, prefill_cost
from labkit.limits.hardware import Hardware, Reading
from labkit.studies import speed_limit, speed_limit_calculator
from labkit.studies import speed_limit_ledger as ledger
from tests.tiny import CONFIG


def reading(rate: float) -> Reading:
    return Reading(rate, rate, 0.1)


def machine(bandwidth: float = 1e9, rate: float = 1e11, **more: Any) -> Hardware:
    """One bandwidth for every working set, one rate for every dtype."""
    points = {2**16: reading(bandwidth), 2**28: reading(bandwidth)}
    return Hardware("made up", "cpu", 2, points, {"float32": reading(rate)}, **more)


@pytest.mark.parametrize(
    ("token", "matrices", "least"), [(10.0, 6.0, 4.0), (10.0, 3.0, 4.0), (2.0, 3.0, 1.0)]
)
def test_the_parts_of_a_token_add_up(token: float, matrices: float, least: float) -> None:
    parts = ledger.parts_of_token(token, matrices, least)
    assert sum(parts.values()) == pytest.approx(token)
    assert parts[ledger.LIMIT] == least
    assert parts[ledger.LIMIT] + parts[ledger.MATRICES] == pytest.approx(matrices)


def test_shares_of_a_token_are_told() -> None:
    rows = ledger.part_rows(ledger.parts_of_token(10e-3, 6e-3, 4e-3))
    assert [row["share"] for row in rows] == ["40%", "20%", "40%"]
    assert [row["time a token"] for row in rows] == ["4 ms", "2 ms", "4 ms"]


def test_a_part_below_zero_is_told_as_not_measurable() -> None:
    rows = ledger.part_rows(ledger.parts_of_token(10e-3, 3e-3, 4e-3))
    assert rows[1] == {
        "part": ledger.MATRICES, "time a token": "not measurable (-1 ms)", "share": "–"
    }  # fmt: skip


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
        "threads": 2, "memory, GB/s": 2.0, "memory, spread": "10%",
        "float32 product, GFLOP/s": 3.0,
    }  # fmt: skip
    (whole,) = ledger.thread_rows(machine())
    assert whole == {"memory, GB/s": 1.0, "float32 product, GFLOP/s": 100.0}


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
    assert all(list(rows[0]) == ["holds", "decode", "prefill"] for rows in shown)


def test_the_sliders_are_real_widgets(capsys: pytest.CaptureFixture[str]) -> None:
    """ipywidgets accepts the controls: it refuses what it cannot turn into one."""
    speed_limit_calculator.show_sliders(machine())
    assert "interactive(" in capsys.readouterr().out


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
