"""How a turn is best held against the memory: by which estimator, and for how long a read.

Two questions of notebook 01. Which estimator gives the narrowest interval of the share of the bare
read? And does a short read before a turn say what a bare read says that lasts as long as the turn?
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from labkit.limits.work import Work, spell
from labkit.timing.compare import Comparison, Variant
from labkit.timing.statistics import LEVEL, interval
from labkit.timing.trace import Trace

GLANCE = 0.05  # seconds of a short read before a turn
PAIRED, MEDIAN = "paired geometric mean", "paired median"
UNPAIRED = "ratio of unpaired geometric means"
_SHORT = f"a read of {GLANCE * 1e3:.0f} ms before each turn"
_WHOLE = "a bare read that lasts a turn"
_RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval, by one estimator."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the width of the interval, relative to the value."""
        return math.sqrt(self.high / self.low) - 1


def estimates(bare: Sequence[float], variant: Sequence[float]) -> dict[str, Estimate]:
    """bare / variant by three estimators. Both are seconds, one a round, taken side by side."""
    logs = np.log(np.asarray(bare, dtype=float)), np.log(np.asarray(variant, dtype=float))
    paired = interval(np.exp(logs[0] - logs[1]))
    return {
        PAIRED: Estimate(paired.value, paired.low, paired.high),
        MEDIAN: _median(logs[0] - logs[1]),
        UNPAIRED: _unpaired(*logs),
    }


def _median(ratios: np.ndarray) -> Estimate:
    """The median of logarithms of ratios; its interval by a bootstrap over rounds (percentiles)."""
    drawn = np.random.default_rng(0).choice(ratios, (_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [LEVEL / 2, 1 - LEVEL / 2])
    return Estimate(*(math.exp(x) for x in (float(np.median(ratios)), low, high)))


def _unpaired(first: np.ndarray, second: np.ndarray) -> Estimate:
    """The ratio of two geometric means; its interval as if rounds were not paired (Welch)."""
    parts = [float(np.var(x, ddof=1)) / len(x) for x in (first, second)]
    middle, error = float(np.mean(first) - np.mean(second)), math.sqrt(sum(parts))
    if not error:
        return Estimate(*[math.exp(middle)] * 3)
    free = sum(parts) ** 2 / sum(p**2 / (len(first) - 1) for p in parts)
    reach = float(stats.t.ppf(1 - LEVEL / 2, free)) * error
    return Estimate(*(math.exp(x) for x in (middle, middle - reach, middle + reach)))


def estimate_rows(found: Mapping[str, Estimate]) -> list[dict[str, object]]:
    """The estimators as rows of a table."""
    return [
        {
            "estimator": name,
            "share": f"{one.value:.1%}",
            "95 % interval": f"{one.low:.1%} to {one.high:.1%}",
            "half its width": f"± {one.half_width:.1%}",
        }
        for name, one in found.items()
    ]


def told_estimates(found: Mapping[str, Estimate], rounds: int) -> str:
    """Which estimator was narrowest in this run, and which one the pages use."""
    best = min(found, key=lambda name: found[name].half_width)
    paired, unpaired = (found[name].half_width for name in (PAIRED, UNPAIRED))
    pairing = (
        f"Pairing narrowed it, from ± {unpaired:.1%} to ± {paired:.1%}: what slowed one turn of a "
        "round slowed the other."
        if paired < unpaired
        else f"Pairing did not narrow it (± {paired:.1%} paired, ± {unpaired:.1%} not): what "
        "slowed one turn of a round did not slow the other."
    )
    return (
        f"In these {rounds} rounds the narrowest is the **{best}** "
        f"(± {found[best].half_width:.1%}). {pairing} All pages use the {PAIRED}: with it, "
        "values, speedups and shares of one table agree, whatever the run."
    )


class Read(NamedTuple):
    """The bare variant that the baseline is held against: its name, and the seconds that the
    baseline's own bytes took it in each round."""

    name: str
    seconds: list[float]


def bare(comparison: Comparison, metric: str = "tpot") -> Read | None:
    """What the baseline was held against; None where that failed to run."""
    found = comparison.bare[comparison.baseline, metric]
    if found.name not in comparison.traces:
        return None
    return Read(found.name, [found.repetitions * value for value in comparison.values(found.name)])


def looking_first(run: Variant, work: Work, looks: dict[float, float]) -> Variant:
    """A variant that reads shortly before each turn; the read is no part of the turn.

    looks: gets the seconds of one repetition of the read, by the moment when the turn was due.
    """

    def turn(number: int) -> Trace:
        taken = spell(work, GLANCE).seconds
        trace = run(number)
        looks[trace.due] = taken
        return trace

    return turn


@dataclass(frozen=True)
class Against:
    """A variant's speed against something, round by round.

    correlation: of the logarithms of both speeds, with its 95 % interval; None where there is
    nothing to correlate with. spread: the standard deviation of the logarithm of their ratio.
    """

    spread: float
    correlation: tuple[float, float, float] | None = None


def correlation(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float] | None:
    """Pearson's r with its 95 % interval (Fisher's z); None for constant or too few values."""
    if len(first) < 4 or min(np.ptp(first), np.ptp(second)) == 0:
        return None
    r = float(np.clip(np.corrcoef(first, second)[0, 1], -0.999999, 0.999999))
    reach = stats.norm.ppf(1 - LEVEL / 2) / math.sqrt(len(first) - 3)
    return r, math.tanh(math.atanh(r) - reach), math.tanh(math.atanh(r) + reach)


def against(comparison: Comparison, read: Read, looks: Mapping[float, float]) -> dict[str, Against]:
    """The baseline's speed in each round: alone, against the short reads before its two turns, and
    against the bare read that lasted a turn. looks: seconds, by the moment a turn was due."""
    pairs = zip(
        comparison.traces[comparison.baseline], comparison.traces[comparison.control], strict=True
    )
    short = np.array([(np.log(looks[a.due]) + np.log(looks[b.due])) / 2 for a, b in pairs])
    taken = np.log(comparison.values(comparison.baseline))
    whole = np.log(read.seconds)
    found = {"nothing": Against(float(np.std(taken, ddof=1)))}
    for name, other in ((_SHORT, short), (_WHOLE, whole)):
        spread = float(np.std(taken - other, ddof=1))
        found[name] = Against(spread, correlation(taken, other))
    return found


def against_rows(found: Mapping[str, Against]) -> list[dict[str, object]]:
    """What a turn was held against, as rows of a table."""
    return [
        {
            "held against": name,
            "correlation with the turn": "–"
            if one.correlation is None
            else "{:.2f} [{:.2f}, {:.2f}]".format(*one.correlation),
            "spread, a round": f"{one.spread:.1%}",
        }
        for name, one in found.items()
    ]


def told_against(found: Mapping[str, Against]) -> str:
    """Whether a short read before the turn, or one as long as a turn, takes noise away."""
    alone = found["nothing"].spread
    told = [f"The speed of the turns alone spread by {alone:.1%} from round to round."]
    for name in (_SHORT, _WHOLE):
        spread, r = found[name].spread, found[name].correlation
        sure = r is not None and r[1] > 0
        told.append(
            f"Divided by {name}, it spread by {spread:.1%}: "
            + ("less noise" if spread < alone else "more noise, not less")
            + ("." if sure else "; whether the two go together is not sure.")
        )
    return " ".join(told)
