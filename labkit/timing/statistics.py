"""From samples to a statement: paired ratios, bootstrap intervals, three-valued verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

# A ratio this close to 1 is nobody's gain: code placement and clock steps move more than that.
MARGIN = 0.01
FEWEST_ROUNDS = 5


@dataclass(frozen=True)
class Ratio:
    """A speedup (baseline time over variant time; over 1 is faster) with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """faster or slower where the whole interval is clear of 1 ± 1 %, else inconclusive."""
        if self.low > 1 + MARGIN:
            return "faster"
        return "slower" if self.high < 1 - MARGIN else "inconclusive"

    def __str__(self) -> str:
        return f"{self.value:.2f}x [{self.low:.2f}, {self.high:.2f}]"


def paired_ratio(baseline: Sequence[float], variant: Sequence[float], seed: int = 0) -> Ratio:
    """Median of the rounds' ratios baseline / variant, with a bootstrap over rounds.

    Both in seconds, one value a round, taken within the same round: what slows the machine for a
    while slows both and drops out. Raises ValueError below five rounds, where resampling says
    nothing, or when the two are not paired.
    """
    if len(baseline) != len(variant):
        raise ValueError(f"{len(baseline)} baseline and {len(variant)} variant rounds: not paired.")
    if len(baseline) < FEWEST_ROUNDS:
        raise ValueError(
            f"{len(baseline)} rounds are too few; at least {FEWEST_ROUNDS} are needed."
        )
    return interval(np.asarray(baseline) / np.asarray(variant), seed)


def interval(values: Sequence[float] | np.ndarray, seed: int = 0) -> Ratio:
    """Median of values with its 95 % percentile-bootstrap interval (Efron 1979)."""
    sample = np.asarray(values, dtype=float)
    middle = float(np.median(sample))
    if np.ptp(sample) == 0:
        return Ratio(middle, middle, middle)
    found = bootstrap(
        (sample,),
        np.median,
        confidence_level=0.95,
        method="percentile",
        n_resamples=9999,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Ratio(middle, float(found.low), float(found.high))


def warm_up(samples: Sequence[float]) -> int:
    """How many leading samples are warm-up, by the marginal standard error rule.

    MSER (White 1997) drops d samples where the squared standard error of the rest is least. Taken
    here is the earliest cut within half of that least value, for near the minimum the curve is flat
    and its exact place is noise. A cut in the second half means that there is no steady part yet,
    and all samples count as warm-up.
    """
    values = np.asarray(samples, dtype=float)
    if len(values) < 4:
        return 0
    errors = np.array([np.var(values[d:]) / (len(values) - d) for d in range(len(values) - 2)])
    cut = int(np.argmax(errors <= 1.5 * errors.min()))
    return cut if cut <= len(values) // 2 else len(values)


def outliers(samples: Sequence[float]) -> list[int]:
    """Indices further than 3.5 robust standard deviations from the median: flagged, never dropped.

    Iglewicz and Hoaglin's modified z-score over the median absolute deviation.
    """
    values = np.asarray(samples, dtype=float)
    distance = np.abs(values - np.median(values))
    deviation = np.median(distance)
    if deviation == 0:
        return []
    return [int(i) for i in np.flatnonzero(0.6745 * distance / deviation > 3.5)]


def rounds_needed(ratios: Sequence[float], effect: float, most: int = 400, seed: int = 0) -> int:
    """Rounds after which a true change of `effect` (0.05 is 5 %) would show on this machine.

    ratios: those of an A/A control, so their spread is the machine's noise. Draws rounds from
    them, shifted by the effect, and returns the least number at which four of five draws have an
    interval clear of 1 ± 1 %; `most` where even that is too few.
    """
    noise = np.asarray(ratios, dtype=float) / np.median(ratios)
    rng = np.random.default_rng(seed)
    count = FEWEST_ROUNDS
    while count < most:
        draws = rng.choice(noise, size=(60, 1, count)) * (1 + effect)
        middles = np.median(rng.choice(draws[:, 0], size=(400, count), axis=1), axis=2)
        if np.mean(np.quantile(middles, 0.025, axis=1) > 1 + MARGIN) >= 0.8:
            return count
        count = max(count + 1, int(count * 1.2))
    return most
