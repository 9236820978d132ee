"""The budget of rows that keeps a stated gap between tokens."""

from __future__ import annotations

import pytest

from labkit.engine.pace import Load, Pace, budget_rows, load_of
from labkit.engine.row_costs import RowCosts, filled
from labkit.engine.scheduler import Running
from labkit.errors import ParameterError
from labkit.model.rows import Part

COSTS = filled(2e-3, {1: 1.0, 8: 2.0, 64: 16.0}, context=100)


def test_the_most_rows_within_a_gap() -> None:
    assert budget_rows(COSTS, 4e-3) == 8
    assert budget_rows(COSTS, 4.1e-3) == 8
    assert budget_rows(COSTS, 4.5e-3) == 9
    assert budget_rows(COSTS, 1.0) == 64  # never beyond what was measured
    assert budget_rows(COSTS, 1e-9) == 1


def test_a_sawtooth_is_used_to_its_last_row() -> None:
    costs = RowCosts(1.0, (1.0, 1.1, 2.0, 1.5, 3.0))
    assert budget_rows(costs, 1.6) == 4


def test_a_load_counts_what_rows_read() -> None:
    assert Load(2, 30).plus(3, 10) == Load(5, 30 + 11 + 12 + 13)
    assert Load.of([Part(0, 4, [1]), Part(1, 0, [1, 2])]) == Load(3, 5 + 1 + 2)
    running = [Running(0, 9, 1, 5), Running(1, 30, 50, 5), Running(2, 20, 1, 5)]
    assert load_of(running) == Load(2, 10 + 21)


def answering(count: int, length: int = 100) -> list[Running]:
    return [Running(number, length - 1, 1, 9) for number in range(count)]


def test_a_pass_takes_at_most_so_many_times_the_usual_one() -> None:
    pace = Pace(COSTS, stretch=3.0, rows=300)
    for count in (1, 4, 16):
        running = answering(count)
        budget = pace.budget([*running, Running(count, 0, 500, 9)])
        allowed = 3 * pace.seconds(load_of(running))
        prompt = budget.answering - count
        assert pace.seconds(load_of(running).plus(prompt, 0)) <= allowed
        assert pace.seconds(load_of(running).plus(prompt + 1, 0)) > allowed
        assert budget.rows == 300


def test_a_gap_in_seconds_stands_instead() -> None:
    pace = Pace(COSTS, gap=6e-3)
    assert pace.budget([*answering(2), Running(2, 0, 500, 9)]).answering == budget_rows(COSTS, 6e-3)


def test_a_prompt_gets_a_row_however_short_the_gap() -> None:
    assert Pace(COSTS, gap=1e-9).budget(answering(5)).answering == 6
    assert Pace(COSTS, gap=1e-9).budget(answering(100)).answering == 101


def test_reading_far_back_is_learned_and_makes_chunks_smaller() -> None:
    """A row at position 4,000 reads 40 times what one at 100 does."""
    a_read = 1e-6
    pace = Pace(COSTS)
    near = pace.budget([*answering(4), Running(4, 100, 500, 9)]).answering
    for at in range(100, 4000, 50):
        load = load_of(answering(4)).plus(20, at)
        beyond = load.reads - load.rows * COSTS.context
        pace.learn(load, COSTS.seconds * COSTS.r(24) + a_read * beyond)
    assert pace.seconds_a_read == pytest.approx(a_read)
    far = pace.budget([*answering(4), Running(4, 4000, 500, 9)]).answering
    assert far < near
    taken = pace.seconds(load_of(answering(4)).plus(far - 4, 4000))
    assert far == 5 or taken <= 3 * pace.seconds(load_of(answering(4)))


@pytest.mark.parametrize("drift", [0.6, 1.0, 1.5])
def test_a_machine_that_changed_since_is_noticed(drift: float) -> None:
    """Passes with prompts take another time than the costs say; the gap is kept all the same."""
    pace, running = Pace(COSTS, stretch=3.0), answering(4)
    usual = load_of(running)
    for _ in range(60):
        rows = pace.budget([*running, Running(4, 96, 500, 9)]).answering - 4
        mixed = usual.plus(rows, 96)
        pace.learn(usual, pace.costs.seconds * pace.costs.r(4))
        taken = drift * pace.costs.seconds * pace.costs.r(mixed.rows)
        pace.learn(mixed, taken, reads=True)
    assert 2.4 <= taken / (pace.costs.seconds * pace.costs.r(4)) <= 3.05


def test_passes_larger_than_the_measured_ones_teach_nothing() -> None:
    pace = Pace(COSTS)
    pace.learn(Load(65, 10**6), 9.0)
    assert pace.seconds_a_read == 0
    assert pace.seconds(Load(128, 12_800)) == pytest.approx(2 * COSTS.seconds * 16)


NAN = float("nan")


@pytest.mark.parametrize(
    "wrong",
    [{"stretch": 1.0}, {"gap": 0.0}, {"stretch": NAN}, {"gap": NAN}, {"rows": 0}],
    ids=str,
)
def test_impossible_paces_are_refused(wrong) -> None:
    with pytest.raises(ParameterError, match="a stretch above 1 and a gap above 0"):
        Pace(COSTS, **wrong)


@pytest.mark.parametrize("wrong", [(0.0, (1.0,)), (NAN, (1.0,)), (1.0, (1.0, NAN)), (1.0, ())])
def test_costs_that_are_no_times_are_refused(wrong) -> None:
    with pytest.raises(ParameterError, match="costs of rows must be positive"):
        RowCosts(*wrong)
