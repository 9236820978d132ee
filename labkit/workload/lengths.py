"""How many tokens prompts and answers have: equal, even, or heavy-tailed.

Real lengths have a heavy tail: most answers are short, and a few are very long (BurstGPT,
2401.17644; Azure's traces of LLM inference, 2311.18677). A lognormal distribution is the usual
model of it. It is cut at both ends without a heap at the ends: what lies outside is drawn again.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from labkit.errors import ParameterError

Lengths = tuple[int, ...]


def _check(count: int, least: int, most: int) -> None:
    if count < 1 or not 1 <= least <= most:
        raise ParameterError(
            f"{count} lengths from {least} to {most} tokens: allowed are 1 and more lengths, "
            "of 1 and more tokens, the least not above the most."
        )


def equal(count: int, tokens: int) -> Lengths:
    """`count` times the same length."""
    _check(count, tokens, tokens)
    return (tokens,) * count


def even(count: int, least: int, most: int, random: np.random.Generator) -> Lengths:
    """Every length from `least` to `most` equally likely."""
    _check(count, least, most)
    return tuple(int(n) for n in random.integers(least, most, count, endpoint=True))


def heavy_tailed(
    count: int,
    median: float,
    sigma: float,
    random: np.random.Generator,
    least: int = 1,
    most: int = 4096,
) -> Lengths:
    """Lognormal lengths: the logarithm is normal around log(median), with a deviation of `sigma`.

    Cut to `least` to `most`, which shifts the median a little where much is cut. sigma 1 gives a
    99th percentile of ten medians. Raises ParameterError, also where the bounds leave out nearly
    all of the distribution.
    """
    _check(count, least, most)
    if not 0 < median < math.inf or not 0 < sigma < math.inf:
        raise ParameterError(f"median {median}, sigma {sigma}: allowed are numbers above 0.")
    low, high = (float(part) for part in length_shares(np.array([least - 1, most]), median, sigma))
    if high - low < 1e-6:
        raise ParameterError(
            f"lengths of median {median} and sigma {sigma} nearly never lie in {least} to {most}."
        )
    drawn = stats.norm.ppf(random.uniform(low, high, count))
    found = np.rint(median * np.exp(sigma * drawn)).astype(np.int64)
    return tuple(int(n) for n in np.clip(found, least, most))  # rounding at the very ends


def length_shares(lengths: np.ndarray, median: float, sigma: float) -> np.ndarray:
    """The share of an uncut lognormal distribution that is rounded to each length or a shorter."""
    shares: np.ndarray = stats.norm.cdf(np.log((lengths + 0.5) / median) / sigma)
    return shares
