"""A prediction holds inside the interval or within 15 %; a beaten limit promises nothing."""

import pytest

from labkit.report.told.compared import Least
from labkit.studies.predictions import (
    Prediction,
    limit_cells,
    limit_told,
    no_change,
    not_below,
    score,
    shown,
)
from labkit.timing.statistics import Ratio, interval


def measured(value: float, low: float, high: float) -> Ratio:
    return Ratio((value,) * 5, value, low, high)


@pytest.mark.parametrize(
    ("expected", "held"),
    [(1.0, "inside the interval"), (1.3, "inside the interval"), (0.9, "within"), (1.36, "no")],
)
def test_a_prediction_is_held_against_the_interval_and_the_value(expected: float, held: str):
    one = Prediction("x", expected, measured(1.05, 0.95, 1.32))
    assert one.held.startswith(held)
    assert one.holds == (held != "no")
    assert one.error == pytest.approx(expected / 1.05 - 1)


def test_a_narrow_interval_still_has_its_15_percent():
    assert Prediction("x", 1.14, measured(1.0, 0.99, 1.01)).holds
    assert not Prediction("x", 1.16, measured(1.0, 0.99, 1.01)).holds
    assert not Prediction("x", 0.84, measured(1.0, 0.99, 1.01)).holds


def test_the_score_lists_what_did_not_hold():
    right = Prediction("right", 1.0, measured(1.0, 0.9, 1.1))
    wrong = Prediction("wrong", 2.0, measured(1.0, 0.9, 1.1))
    near = Prediction("near", 1.12, measured(1.0, 0.9, 1.1))
    told = score("times", [right, near]).replace("\u00a0", " ")
    assert told == (
        "Of the predicted times, 1 of 2 lie inside the measured interval, and 1 more within 15 % "
        "of the measured value."
    )
    assert score("times", [right, wrong]).endswith(" The others: wrong (+100.0%).")


def test_what_no_change_would_have_predicted_stands_beside_the_score():
    said = no_change([measured(1.0, 0.9, 1.1), measured(1.1, 1.05, 1.2), measured(2.0, 1.9, 2.1)])
    assert "(1.00x): 1 of 3 lie inside the measured interval, and 1 more within" in said


def test_cells_tell_what_was_predicted_and_measured():
    time = Prediction("x", 0.002, measured(0.004, 0.003, 0.005)).time_cells()
    assert list(time.values()) == ["2 ms", "4 ms [3 ms, 5 ms]", "no"]
    speedup = Prediction("x", 1.5, measured(1.6, 1.4, 1.8)).speedup_cells()
    assert list(speedup.values()) == ["1.50x", "1.60x [1.40, 1.80]", "inside the interval"]


def test_a_speedup_is_shown_only_by_an_interval_on_one_side_of_1():
    assert shown(interval([1.2, 1.21, 1.19, 1.2, 1.2])).endswith("lies above 1")
    assert shown(interval([0.8, 0.81, 0.79, 0.8, 0.8])).endswith("lies below 1")
    unsure = interval([0.8, 1.3, 0.9, 1.2, 1.0])
    assert "no difference is shown" in shown(unsure)
    assert f"one of {unsure.smallest_effect:.0%}"[:-1] in shown(unsure)


def test_the_limit_is_told_with_the_speedup_that_it_would_be_over_the_baseline_as_measured():
    cells = limit_cells(Least(0.010, 0.020), taken=0.030, baseline=0.040)
    assert cells == {"limit": "10 ms to 20 ms", "speedup at its limit": "4.00x"}


def test_a_limit_that_was_beaten_is_not_told_and_promises_no_speedup():
    cells = limit_cells(Least(0.010), taken=0.009, baseline=0.040)
    assert cells == {"limit": "–", "speedup at its limit": "–"}
    assert limit_told(Least(0.010)) == "10 ms"


def test_no_time_is_predicted_below_the_limit_of_the_same_thing():
    assert not_below(0.009, Least(0.010)) == 0.010
    assert not_below(0.011, Least(0.010)) == 0.011
    assert not_below(0.009, None) == 0.009  # earlier rounds beat it: it is no limit
