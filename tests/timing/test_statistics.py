"""Intervals and verdicts of samples whose true values are known."""

import numpy as np
import pytest

from labkit.timing.statistics import (
    Ratio,
    interval,
    outliers,
    paired_ratio,
    rounds_needed,
    warm_up,
)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.02, 1.3, "faster"),
        (0.7, 0.98, "slower"),
        (0.9, 1.1, "inconclusive"),
        (1.005, 1.2, "inconclusive"),  # outside 1, not outside the margin
        (0.8, 0.995, "inconclusive"),
    ],
)
def test_verdicts(low, high, verdict):
    assert Ratio((low + high) / 2, low, high).verdict == verdict


def test_a_constant_ratio_has_no_width():
    ratio = paired_ratio([2.0] * 6, [1.0] * 6)
    assert (ratio.value, ratio.low, ratio.high) == (2.0, 2.0, 2.0)
    assert ratio.verdict == "faster"


def test_pairing_takes_the_machines_drift_out():
    drift = np.linspace(1, 5, 12)
    ratio = paired_ratio(drift * 1.1, drift)
    assert ratio.value == pytest.approx(1.1)
    assert ratio.high - ratio.low < 1e-9


def test_error_rates_on_simulated_rounds():
    rng = np.random.default_rng(0)
    noise = lambda: np.exp(rng.normal(0, 0.04, 12))  # noqa: E731
    same = [paired_ratio(noise(), noise()).verdict for _ in range(80)]
    slower = [paired_ratio(noise(), 1.1 * noise()).verdict for _ in range(80)]
    assert same.count("inconclusive") >= 74
    assert slower.count("slower") >= 72


def test_unpaired_or_too_few_rounds_are_refused():
    with pytest.raises(ValueError, match="not paired"):
        paired_ratio([1.0] * 6, [1.0] * 5)
    with pytest.raises(ValueError, match="too few"):
        paired_ratio([1.0] * 4, [1.0] * 4)


def test_interval_is_reproducible_and_holds_the_median():
    values = np.random.default_rng(3).normal(5, 1, 30)
    first, second = interval(values), interval(values)
    assert first == second
    assert first.low <= first.value <= first.high


def test_warm_up_is_seen():
    rng = np.random.default_rng(1)
    series = [5.0, 3.0, 2.0, *(1 + 0.05 * rng.random(17))]
    assert warm_up(series) == 3
    assert warm_up(1 + 0.05 * rng.random(20)) <= 3
    assert warm_up([3.0, 1.0]) == 0


def test_a_series_that_never_settles_is_all_warm_up():
    assert warm_up([20 - 0.9 * i for i in range(20)]) == 20


def test_outliers_are_named_not_dropped():
    values = [1.0, 1.1, 0.9, 1.05, 9.0, 0.95, 1.0, 1.02]
    assert outliers(values) == [4]
    assert outliers([1.0] * 8) == []


def test_noisier_machines_need_more_rounds():
    rng = np.random.default_rng(2)
    quiet, loud = np.exp(rng.normal(0, 0.01, 40)), np.exp(rng.normal(0, 0.1, 40))
    assert rounds_needed(quiet, 0.05) < rounds_needed(loud, 0.05)
    assert rounds_needed(loud, 0.2) < rounds_needed(loud, 0.02)
