"""Arrivals have the statistics that they are named for."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from labkit.errors import ParameterError
from labkit.workload import arrivals
from labkit.workload.arrivals import Arrival, bursty, constant, dispersion_of_counts, gaps, poisson

RATE = 20.0
# A run of one seed is the same every time: a p-value below this would be a wrong distribution.
UNLIKELY = 1e-3


def test_constant_is_constant() -> None:
    found = constant(8.0, 100)
    assert gaps(found) == pytest.approx([0.125] * 100)
    assert [one.due for one in found] == [(k + 1) / 8 for k in range(100)]
    assert dispersion_of_counts(constant(RATE, 40_001), 1.0) < 0.01


@pytest.mark.parametrize("seed", range(5))
def test_gaps_of_a_poisson_process_are_exponential_and_independent(seed: int) -> None:
    found = gaps(poisson(RATE, 20_000, seed))
    assert stats.kstest(found, "expon", args=(0, 1 / RATE)).pvalue > UNLIKELY
    follows = np.corrcoef(found[:-1], found[1:])[0, 1]
    assert abs(follows) < 4 / math.sqrt(len(found))


@pytest.mark.parametrize("window", [0.5, 2.0])
def test_the_counts_of_a_poisson_process_have_a_dispersion_of_one(window: float) -> None:
    found = dispersion_of_counts(poisson(RATE, 100_000, 3), window)
    windows = 100_000 / RATE / window
    assert found == pytest.approx(1, abs=4 * math.sqrt(2 / windows))


@pytest.mark.parametrize("dispersion", [0.25, 1.0, 4.0, 16.0])
def test_gaps_of_a_bursty_process_are_gamma(dispersion: float) -> None:
    found = np.array(gaps(bursty(RATE, 20_000, dispersion, seed=1)))
    drawn = stats.gamma(1 / dispersion, scale=dispersion / RATE)
    # Times of some 1,000 s hold gaps down to 1e-12 s; of great dispersion, many are shorter.
    least, long = drawn.cdf(1e-9), found[found > 1e-9]
    assert stats.kstest(long, lambda gap: (drawn.cdf(gap) - least) / (1 - least)).pvalue > UNLIKELY
    assert stats.binomtest(len(long), len(found), 1 - least).pvalue > UNLIKELY
    assert np.var(found) / np.mean(found) ** 2 == pytest.approx(dispersion, rel=0.15)


@pytest.mark.parametrize("dispersion", [0.25, 4.0, 16.0])
def test_a_bursty_process_has_the_dispersion_that_is_stated(dispersion: float) -> None:
    window = 40.0  # seconds; 800 requests, many bursts
    found = dispersion_of_counts(bursty(RATE, 400_000, dispersion, seed=2), window)
    windows = 400_000 / RATE / window
    assert found == pytest.approx(dispersion, rel=4 * math.sqrt(2 / windows) + 0.02)


@pytest.mark.parametrize("make", [poisson, bursty])
def test_the_rate_is_the_one_asked_for(make: Callable[..., arrivals.Arrivals]) -> None:
    found = make(RATE, 50_000, seed=4)
    assert len(found) == 50_000
    assert found[-1].due == pytest.approx(50_000 / RATE, rel=0.05)
    assert [one.due for one in found] == sorted(one.due for one in found)
    assert make(RATE, 50, seed=4) == make(RATE, 50, seed=4)
    assert make(RATE, 50, seed=4) != make(RATE, 50, seed=5)


@pytest.mark.parametrize(("first", "last"), [(1.0, 40.0), (40.0, 1.0), (20.0, 20.0)])
def test_a_ramp_is_a_poisson_process_of_its_expected_number(first: float, last: float) -> None:
    seconds = 1000.0
    times = np.array([one.due for one in arrivals.ramp(first, last, seconds, seed=1)])
    whole = (first + last) / 2 * seconds
    assert len(times) == pytest.approx(whole, abs=4 * math.sqrt(whole))
    assert 0 <= times.min() <= times.max() <= seconds
    expected = first * times + (last - first) * times**2 / (2 * seconds)
    assert stats.kstest(np.diff(expected, prepend=0), "expon").pvalue > UNLIKELY


def test_a_ramp_reaches_the_expected_numbers_at_its_ends() -> None:
    for first, last in [(1.0, 3.0), (3.0, 1.0), (2.0, 2.0), (2.0, 2.0 + 1e-12)]:
        found = arrivals.when_expected(np.array([0.0, 20.0]), first, last, 10.0)
        assert found == pytest.approx([0, 10])


def test_a_closed_loop_keeps_each_user_in_one_chain() -> None:
    found = arrivals.closed_loop(3, 8)
    assert found[:3] == (Arrival(0.0),) * 3
    assert [one.follows for one in found] == [None, None, None, 0, 1, 2, 3, 4]
    assert {one.due for one in found} == {0.0}


def test_users_think_for_exponential_times() -> None:
    found = [one.due for one in arrivals.closed_loop(1, 20_000, 2.0, seed=1)[1:]]
    assert stats.kstest(found, "expon", args=(0, 2.0)).pvalue > UNLIKELY


def test_all_at_once() -> None:
    assert arrivals.at_once(3) == (Arrival(0.0),) * 3


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    for make in (constant, poisson, bursty):
        with pytest.raises(ParameterError, match="^rate .*: allowed are numbers above 0.$"):
            make(rate, 10)
    with pytest.raises(ParameterError, match="first_rate"):
        arrivals.ramp(rate, 1.0, 1.0)
    with pytest.raises(ParameterError, match="seconds"):
        arrivals.ramp(1.0, 1.0, rate)
    if rate:
        with pytest.raises(ParameterError, match="think_seconds"):
            arrivals.closed_loop(1, 2, rate)


@pytest.mark.parametrize("count", [0, -3, 1.5, True])
def test_an_impossible_count_is_refused(count: int) -> None:
    for make in (constant, poisson, bursty):
        with pytest.raises(ParameterError, match="requests: allowed are whole numbers from 1 on"):
            make(1.0, count)
    with pytest.raises(ParameterError, match="allowed are whole numbers"):
        arrivals.closed_loop(count, 1)


@pytest.mark.parametrize("dispersion", [0.0, -1.0, math.nan, 1e9, 1e-9])
def test_an_impossible_dispersion_is_refused(dispersion: float) -> None:
    with pytest.raises(ParameterError, match="dispersion"):
        bursty(1.0, 10, dispersion)


def test_an_empty_ramp_and_short_windows_are_refused() -> None:
    with pytest.raises(ParameterError, match="no request came"):
        arrivals.ramp(1e-9, 1e-9, 1.0)
    for window in (0.0, 1.0, math.nan):
        with pytest.raises(ParameterError, match="at least two"):
            dispersion_of_counts(constant(10.0, 15), window)
    with pytest.raises(ParameterError, match="no request came in the 2 full windows"):
        dispersion_of_counts((Arrival(2.5),), 1.0)
