"""From samples to a verdict: paired ratios, their intervals, corrected verdicts.

One estimator for everything: the geometric mean over rounds. The ratio of two geometric means is
the geometric mean of the paired ratios, so values, speedups and shares of one table always agree.
Logarithms of times are close to normal, so that Student's t gives intervals that hold from five
rounds on; a disturbed round makes them wider, as it should.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import stats

# Ratios this close to 1 count as equal: the mere position of code in memory can change times more.
MARGIN = 0.01
LEVEL = 0.05  # of error, for all verdicts that are corrected together
POWER = 0.8  # with which `smallest_effect` would be seen
FEWEST_ROUNDS = 5
MOST_ROUNDS = 400
_ROUNDING = 1e-9  # relative, of the difference of two timestamps

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Ratio:
    """A paired ratio (baseline time over variant time; over 1 is faster), one value a round.

    rounds: the ratio of each round. value: their geometric mean. low, high: its 95 % interval.
    """

    rounds: tuple[float, ...]
    value: float
    low: float
    high: float

    @property
    def error(self) -> float:
        """The standard error of the logarithm of the value."""
        return float(np.std(np.log(self.rounds), ddof=1) / math.sqrt(len(self.rounds)))

    @property
    def half_width(self) -> float:
        """Half the width of the interval, relative to the value: 0.04 is ± 4 %."""
        return math.sqrt(self.high / self.low) - 1

    @property
    def p_value(self) -> float:
        """The chance of a ratio this far from 1 where the true one lies in 1 ± 1 % (two-sided)."""
        beyond = abs(math.log(self.value)) - math.log1p(MARGIN)
        if beyond <= 0:
            return 1.0
        if self.error == 0:
            return 0.0
        return float(min(1.0, 2 * stats.t.sf(beyond / self.error, len(self.rounds) - 1)))

    @property
    def smallest_effect(self) -> float:
        """The least true change that as many rounds, as noisy, would show four times in five.

        0.05 is 5 %. For one comparison alone: the correction for several asks for more.
        """
        free = len(self.rounds) - 1
        steps = stats.t.ppf(1 - LEVEL / 2, free) + stats.t.ppf(POWER, free)
        return float(math.expm1(math.log1p(MARGIN) + steps * self.error))

    def times(self, factor: float) -> Ratio:
        """The same ratio, times a factor that is known exactly (a number of bytes, say)."""
        scaled = tuple(one * factor for one in self.rounds)
        return Ratio(scaled, self.value * factor, self.low * factor, self.high * factor)

    def __str__(self) -> str:
        return f"{_digits(self.value)}x [{_digits(self.low)}, {_digits(self.high)}]"


def _digits(ratio: float) -> str:
    """2.35, 23.4, 234: as findings are told (`labkit.report.told.words.times`)."""
    return f"{ratio:,.{2 if ratio < 10 else 1 if ratio < 100 else 0}f}"


def _logarithms(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Of times, rates or ratios; ValueError for one that is not positive and finite."""
    found = np.asarray(values, dtype=float)
    wrong = found[~(np.isfinite(found) & (found > 0))]
    if wrong.size:
        raise ValueError(
            f"{wrong[0]:g} is among the {found.size} samples; allowed are positive, finite "
            "numbers. A time of 0 means that the clock stood still."
        )
    return np.log(found)


def geometric_mean(values: Sequence[float] | np.ndarray) -> float:
    """The geometric mean of positive values; ValueError for any other."""
    return float(np.exp(np.mean(_logarithms(values))))


def paired_ratio(baseline: Sequence[float], variant: Sequence[float]) -> Ratio:
    """The geometric mean over rounds of baseline / variant, with its 95 % interval.

    Both are seconds, one value a round. A round's two values are taken side by side: what slows the
    machine for a while slows both and cancels. Raises ValueError where the two are not paired,
    below five rounds, and for a time that is not positive.
    """
    if len(baseline) != len(variant):
        raise ValueError(f"{len(baseline)} baseline and {len(variant)} variant rounds: not paired.")
    if len(baseline) < FEWEST_ROUNDS:
        raise ValueError(
            f"{len(baseline)} rounds are too few; at least {FEWEST_ROUNDS} are needed."
        )
    for times in (baseline, variant):
        _logarithms(times)
    return interval(np.asarray(baseline, dtype=float) / np.asarray(variant, dtype=float))


def interval(values: Sequence[float] | np.ndarray) -> Ratio:
    """The geometric mean of positive values with its 95 % interval (Student's t, logarithms).

    Raises ValueError for any other value.
    """
    sample = _logarithms(values)
    middle, error = float(np.mean(sample)), float(np.std(sample, ddof=1)) / math.sqrt(len(sample))
    reach = float(stats.t.ppf(1 - LEVEL / 2, len(sample) - 1)) * error
    rounds = tuple(float(value) for value in np.asarray(values, dtype=float))
    low, high = math.exp(middle - reach), _exponential(middle + reach)
    return Ratio(rounds, math.exp(middle), low, high)


def _exponential(value: float) -> float:
    """e to a power; infinite where no float holds it."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def no_difference(low: float, high: float) -> bool:
    """Whether the interval of an A/A control reaches into 1 ± 1 %, as it must."""
    return low <= 1 + MARGIN and high >= 1 / (1 + MARGIN)


def trusted(control: Ratio) -> bool:
    """Whether an A/A control shows no difference."""
    return no_difference(control.low, control.high)


def holm(p_values: Mapping[Key, float], level: float = LEVEL) -> set[Key]:
    """Which comparisons hold after the correction for all of them (Holm 1979).

    The chance that even one of them is claimed wrongly stays below `level`.
    """
    known = [key for key, p in p_values.items() if not math.isnan(p)]
    order = sorted(known, key=lambda key: p_values[key])
    held: set[Key] = set()
    for rank, key in enumerate(order):
        if p_values[key] > level / (len(p_values) - rank):
            break
        held.add(key)
    return held


def direction(value: float) -> str:
    """The verdict of a speedup that holds: faster or slower."""
    return "faster" if value > 1 else "slower"


def narrow_enough(value: float, control: tuple[float, float]) -> bool:
    """Whether a control's interval (low, high) is narrower to each side than the claimed effect."""
    low, high = control
    return math.sqrt(high / low) < math.exp(abs(math.log(value)))


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

    The modified z-score of Iglewicz and Hoaglin (1993), over the median absolute deviation. Where
    most samples are equal that deviation is 0, and any other sample is an outlier; only what may be
    rounding is not.
    """
    values = np.asarray(samples, dtype=float)
    middle = np.median(values)
    distance = np.abs(values - middle)
    deviation = max(np.median(distance), _ROUNDING * abs(middle))
    return [int(i) for i in np.flatnonzero(0.6745 * distance > 3.5 * deviation)]


def spread_at_most(ratios: Sequence[float]) -> float:
    """The standard deviation of the logarithms of ratios: its upper 90 % bound."""
    free = len(ratios) - 1
    spread = float(np.std(_logarithms(ratios), ddof=1))
    return spread * math.sqrt(free / float(stats.chi2.ppf(0.1, free)))


def rounds_needed(ratios: Sequence[float], effect: float, power: float = 0.95) -> int:
    """How many rounds it takes to see a true change of `effect` (0.05 is 5 %) on this machine.

    ratios: of an A/A control; their spread is the machine's noise, and its upper 90 % bound is
    used, because a short run may have seen a calm moment. The result is the first number of rounds
    with which a single comparison shows the change with `power`; at most 400. Simulated from
    controls of 40 rounds, at least 18 of 20 planted changes of 5 % are seen in 99 % of the cases
    for normal noise, in 93 % for Student's t with 3 degrees of freedom, and in 84 % where a tenth
    of the turns are disturbed (with power 0.9 and an 80 % bound: 97 %, 80 % and 70 %).
    """
    noise = spread_at_most(ratios)
    beyond = math.log1p(effect) - math.log1p(MARGIN)
    for count in range(FEWEST_ROUNDS, MOST_ROUNDS):
        steps = stats.t.ppf(1 - LEVEL / 2, count - 1) + stats.t.ppf(power, count - 1)
        if steps * noise / math.sqrt(count) <= beyond:
            return count
    return MOST_ROUNDS
