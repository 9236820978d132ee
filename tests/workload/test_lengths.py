"""Lengths of prompts and answers have the distribution that they are named for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from labkit.errors import ParameterError
from labkit.workload.lengths import equal, even, heavy_tailed, length_shares
from labkit.workload.streams import Use, stream


def random(seed: int = 0) -> np.random.Generator:
    return stream(seed, Use.OUTPUT_LENGTHS)


def test_equal_and_even_lengths() -> None:
    assert equal(3, 7) == (7, 7, 7)
    found = even(30_000, 5, 14, random())
    counts = np.bincount(found)[5:]
    assert len(counts) == 10
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("sigma", [0.3, 1.0, 1.6])
def test_without_cuts_the_median_and_the_tail_are_those_asked_for(sigma: float) -> None:
    found = heavy_tailed(40_000, 500, sigma, random(1), most=10**9)
    assert np.median(found) == pytest.approx(500, rel=0.05)
    logs = np.log(found)
    assert logs.std() == pytest.approx(sigma, rel=0.03)
    for quantile in (0.9, 0.99, 0.999):
        expected = 500 * math.exp(sigma * stats.norm.ppf(quantile))
        assert np.quantile(found, quantile) == pytest.approx(expected, rel=0.15 * max(sigma, 0.5))


def test_cut_lengths_follow_the_cut_distribution_exactly() -> None:
    least, most = 4, 60
    found = np.array(heavy_tailed(50_000, 20, 1.0, random(2), least, most))
    assert (found.min(), found.max()) == (least, most)
    edges = length_shares(np.arange(least - 1, most + 1), 20, 1.0)
    shares = np.diff(edges) / (edges[-1] - edges[0])
    counts = np.bincount(found, minlength=most + 1)[least:]
    assert stats.chisquare(counts, shares * len(found)).pvalue > 1e-3
    assert counts[-1] < 2 * counts[-2]  # no heap where it is cut


def test_the_same_seed_gives_the_same_lengths() -> None:
    assert heavy_tailed(50, 100, 1.0, random(3)) == heavy_tailed(50, 100, 1.0, random(3))
    assert heavy_tailed(50, 100, 1.0, random(3)) != heavy_tailed(50, 100, 1.0, random(4))


@pytest.mark.parametrize(("median", "sigma"), [(0, 1), (-5, 1), (math.nan, 1), (9, 0), (9, -1),
                                               (9, math.nan), (math.inf, 1)])  # fmt: skip
def test_an_impossible_distribution_is_refused(median: float, sigma: float) -> None:
    with pytest.raises(ParameterError, match="median .* sigma .*above 0"):
        heavy_tailed(5, median, sigma, random())


def test_impossible_bounds_are_refused() -> None:
    for least, most in ((0, 5), (-1, 5), (6, 5)):
        with pytest.raises(ParameterError, match="allowed"):
            even(3, least, most, random())
        with pytest.raises(ParameterError, match="allowed"):
            heavy_tailed(3, 4, 1.0, random(), least, most)
    with pytest.raises(ParameterError, match="0 lengths"):
        equal(0, 5)
    with pytest.raises(ParameterError, match="nearly never lie in 1000 to 2000"):
        heavy_tailed(3, 4, 0.5, random(), 1000, 2000)
