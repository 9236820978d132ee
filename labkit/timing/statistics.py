"""From samples to a verdict: paired ratios, bootstrap intervals, three verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

# Ratios this close to 1 count as equal: the mere position of code in memory can change times more.
MARGIN = 0.01
FEWEST_ROUNDS = 5
MOST_ROUNDS = 400


@dataclass(frozen=True)
class Ratio:
    """A speedup (baseline time over variant time; over 1 is faster) with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """faster or slower where the whole interval lies outside 1 ± 1 %, else inconclusive."""
        if self.low > 1 + MARGIN:
            return "faster"
        return "slower" if self.high < 1 - MARGIN else "inconclusive"

    def __str__(self) -> str:
        return f"{self.value:.2f}x [{self.low:.2f}, {self.high:.2f}]"


def paired_ratio(baseline: Sequence[float], variant: Sequence[float]) -> Ratio:
    """Median over rounds of baseline / variant, with a bootstrap interval over rounds.

    Both are seconds, one value a round. A round's two values are taken side by side: what slows the
    machine for a while slows both and cancels. Raises ValueError where the two are not paired, or
    below five rounds, which are too few to resample.
    """
    if len(baseline) != len(variant):
        raise ValueError(f"{len(baseline)} baseline and {len(variant)} variant rounds: not paired.")
    if len(baseline) < FEWEST_ROUNDS:
        raise ValueError(
            f"{len(baseline)} rounds are too few; at least {FEWEST_ROUNDS} are needed."
        )
    return interval(np.asarray(baseline) / np.asarray(variant))


def interval(values: Sequence[float] | np.ndarray) -> Ratio:
    """Median of values with its 95 % percentile-bootstrap interval (Efron 1979), reproducible."""
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
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Ratio(middle, float(found.low), float(found.high))


def warm_up(samples: Sequence[float]) -> int:
    """How many leading samples are warm-up, by the marginal standard error rule.

    MSER (White 1997) drops the first d samples, with the d for which the squared standard error of
    the rest is least. Near its minimum that curve is flat, so the exact minimum is noise: we take
    the first d whose error is at most 1.5 times the least. Where d lies in the second half there is
    no steady part yet, and all samples count as warm-up.
    """
    values = np.asarray(samples, dtype=float)
    if len(values) < 4:
        return 0
    errors = np.array([np.var(values[d:]) / (len(values) - d) for d in range(len(values) - 2)])
    cut = int(np.argmax(errors <= 1.5 * errors.min()))
    return cut if cut <= len(values) // 2 else len(values)


def outliers(samples: Sequence[float]) -> list[int]:
    """Indices of samples further than 3.5 robust standard deviations from the median.

    The modified z-score of Iglewicz and Hoaglin (1993), over the median absolute deviation.
    """
    values = np.asarray(samples, dtype=float)
    distance = np.abs(values - np.median(values))
    deviation = np.median(distance)
    if deviation == 0:
        return []
    return [int(i) for i in np.flatnonzero(0.6745 * distance / deviation > 3.5)]


def rounds_needed(ratios: Sequence[float], effect: float) -> int:
    """How many rounds it takes to see a true change of `effect` (0.05 is 5 %) on this machine.

    ratios: of an A/A control; their spread is the machine's noise. Rounds are drawn from them,
    times 1 + effect. The result is the first number of rounds tried for which four of five draws
    have an interval outside 1 ± 1 %, and 400 where none has.
    """
    noise = np.asarray(ratios, dtype=float) / np.median(ratios)
    rng = np.random.default_rng(0)
    count = FEWEST_ROUNDS
    while count < MOST_ROUNDS:
        draws = rng.choice(noise, size=(60, 1, count)) * (1 + effect)
        middles = np.median(rng.choice(draws[:, 0], size=(400, count), axis=1), axis=2)
        if np.mean(np.quantile(middles, 0.025, axis=1) > 1 + MARGIN) >= 0.8:
            return count
        count = max(count + 1, int(count * 1.2))
    return MOST_ROUNDS
