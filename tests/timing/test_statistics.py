"""Intervals and verdicts of samples whose true values are known."""

import numpy as np
import pytest

from labkit.timing.statistics import (
    geometric_mean,
    holm,
    interval,
    narrow_enough,
    no_difference,
    outliers,
    paired_ratio,
    rounds_needed,
    trusted,
    warm_up,
)


def rounds(middle, spread=0.03, count=12, seed=0):
    """Ratios of rounds around `middle`, whose logarithms have just this spread."""
    noise = np.random.default_rng(seed).normal(0, 1, count)
    return middle * np.exp(spread * (noise - noise.mean()) / noise.std(ddof=1))


def test_value_is_the_geometric_mean_so_that_ratios_of_values_agree():
    rng = np.random.default_rng(1)
    base, variant = np.exp(rng.normal(0, 0.3, 9)), np.exp(rng.normal(0.2, 0.5, 9))
    ratio = paired_ratio(base, variant)
    assert ratio.value == pytest.approx(geometric_mean(base) / geometric_mean(variant))
    assert ratio.value == pytest.approx(geometric_mean(ratio.rounds))


def test_the_interval_is_students():
    ratio = interval([1.0, 1.1, 1.2, 1.1, 1.05])
    logs = np.log(ratio.rounds)
    reach = 2.776 * logs.std(ddof=1) / np.sqrt(5)  # t of four degrees of freedom
    assert np.log(ratio.high / ratio.value) == pytest.approx(reach, rel=1e-3)
    assert ratio.half_width == pytest.approx(np.exp(reach) - 1, rel=1e-3)


def test_inside_the_margin_nothing_is_shown():
    assert interval(rounds(1.009, 0.0001)).p_value == 1.0
    assert interval(rounds(1.03, 0.0001)).p_value < 1e-6
    assert interval(rounds(0.97, 0.0001)).p_value < 1e-6


def test_holm_corrects_for_all_together():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == {"a"}  # 0.03 > 0.05 / 2
    assert holm({"a": 0.01, "b": 0.02, "c": 0.04}) == {"a", "b", "c"}
    assert holm({"a": 0.02, "b": 0.9, "c": 0.9}) == set()
    assert holm({"a": 0.02}) == {"a"}
    assert holm({}) == set()


def test_a_control_must_be_narrower_than_the_effect():
    assert narrow_enough(1.2, (0.95, 1.05))
    assert not narrow_enough(1.05, (0.9, 1.1))
    assert narrow_enough(1 / 1.2, (0.95, 1.05))
    assert not narrow_enough(1 / 1.05, (0.9, 1.1))


def test_a_control_that_differs_is_not_trusted():
    assert trusted(interval(rounds(1.0)))
    assert not trusted(interval(rounds(1.1)))


def test_the_smallest_effect_would_be_seen_four_times_in_five():
    rng = np.random.default_rng(4)
    effect = interval(rounds(1.0, 0.05, 12)).smallest_effect
    draws = (1 + effect) * np.exp(rng.normal(0, 0.05, (400, 12)))
    seen = np.mean([interval(draw).p_value <= 0.05 for draw in draws])
    assert 0.7 < seen < 0.9


def test_a_factor_that_is_known_scales_everything():
    ratio = interval(rounds(1.2))
    half = ratio.times(0.5)
    assert (half.value, half.low, half.high) == (ratio.value / 2, ratio.low / 2, ratio.high / 2)
    assert half.half_width == pytest.approx(ratio.half_width)


def test_a_constant_ratio_has_no_width():
    ratio = paired_ratio([2.0] * 6, [1.0] * 6)
    assert (ratio.value, ratio.low, ratio.high) == (2.0, 2.0, 2.0)
    assert (ratio.p_value, ratio.smallest_effect) == (0.0, pytest.approx(0.01))


def test_pairing_takes_the_machines_drift_out():
    drift = np.linspace(1, 5, 12)
    ratio = paired_ratio(drift * 1.1, drift)
    assert ratio.value == pytest.approx(1.1)
    assert ratio.high - ratio.low < 1e-9


def test_error_rates_on_simulated_rounds():
    rng = np.random.default_rng(0)
    noise = lambda: np.exp(rng.normal(0, 0.04, 12))  # noqa: E731
    same = [paired_ratio(noise(), noise()).p_value for _ in range(200)]
    slower = [paired_ratio(noise(), 1.1 * noise()).p_value for _ in range(200)]
    assert sum(p <= 0.05 for p in same) <= 10
    assert sum(p <= 0.05 for p in slower) >= 190


def test_unpaired_or_too_few_rounds_are_refused():
    with pytest.raises(ValueError, match="not paired"):
        paired_ratio([1.0] * 6, [1.0] * 5)
    with pytest.raises(ValueError, match="too few"):
        paired_ratio([1.0] * 4, [1.0] * 4)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_no_time_is_refused_in_one_line(wrong):
    for take in (interval, geometric_mean, lambda values: rounds_needed(values, 0.1)):
        with pytest.raises(ValueError, match=rf"^{wrong:g} is among the 6 samples; allowed are"):
            take([1.0, 1.1, 0.9, 1.0, 1.0, wrong])
    for pair in ([[wrong] * 5, [1.0] * 5], [[1.0] * 5, [wrong] * 5], [[wrong] * 5] * 2):
        with pytest.raises(ValueError, match="among the 5 samples; allowed are positive"):
            paired_ratio(*pair)


def test_an_interval_wider_than_any_number_is_no_traceback():
    assert interval([1e-300, 1e300]).high == float("inf")


def test_interval_is_reproducible_and_holds_its_value():
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


def test_where_most_samples_are_equal_the_others_are_outliers():
    assert outliers([1.0, 1.0, 1.0, 1.0, 9.0, 1.0]) == [4]
    assert outliers([0.1, 0.1, 0.1, 0.01]) == [3]
    assert outliers([0.1, 0.1, 0.1, 0.3 - 0.2]) == []  # rounding
    assert outliers([0.0] * 5) == []


def test_noisier_machines_need_more_rounds():
    rng = np.random.default_rng(2)
    quiet, loud = np.exp(rng.normal(0, 0.01, 40)), np.exp(rng.normal(0, 0.1, 40))
    assert rounds_needed(quiet, 0.05) < rounds_needed(loud, 0.05)
    assert rounds_needed(loud, 0.2) < rounds_needed(loud, 0.02)


def test_the_rounds_that_are_recommended_see_the_effect():
    rng = np.random.default_rng(5)
    pilot = np.exp(rng.normal(0, 0.05, 20))
    count = rounds_needed(pilot, 0.05)
    draws = 1.05 * np.exp(rng.normal(0, np.log(pilot).std(ddof=1), (400, count)))
    assert np.mean([interval(draw).p_value <= 0.05 for draw in draws]) >= 0.88


def test_a_p_value_that_is_none_shows_nothing_and_still_counts():
    assert holm({"a": float("nan"), "b": 0.9}) == set()
    assert holm({"a": float("nan"), "b": 0.03}) == set()  # one of two: 0.03 > 0.05 / 2
    assert holm({"a": float("nan"), "b": 0.02}) == {"b"}


@pytest.mark.parametrize(
    ("low", "high", "same"),
    [(0.9, 1.1, True), (1.005, 1.2, True), (1.02, 1.2, False), (0.8, 0.99, False)],
)
def test_one_rule_says_whether_a_control_shows_a_difference(low, high, same):
    assert no_difference(low, high) == same
