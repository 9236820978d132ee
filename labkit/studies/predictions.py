"""What is told of a variant before it is measured, and how that did afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labkit.base.units import seconds
from labkit.report.told.compared import Least
from labkit.report.told.words import effect, percent, times
from labkit.timing.statistics import Ratio

WITHIN = 0.15  # a prediction this close to the measured value holds, whatever the interval
EARLIER = 12  # rounds that a prediction is made from, at most


def inside(expected: float, measured: Ratio) -> bool:
    """Whether a prediction lies in the measured interval."""
    return measured.low <= expected <= measured.high


def near(expected: float, measured: float) -> bool:
    """Whether a prediction lies within 15 % of the measured value."""
    return abs(expected / measured - 1) <= WITHIN


@dataclass(frozen=True)
class Prediction:
    """A value that was told of `name` before `measured`, with its 95 % interval, was measured."""

    name: str
    expected: float
    measured: Ratio

    @property
    def error(self) -> float:
        """Relative to the measured value: 0.1 is 10 % too high."""
        return self.expected / self.measured.value - 1

    @property
    def held(self) -> str:
        """How it held: inside the interval, within 15 %, or no."""
        if inside(self.expected, self.measured):
            return "inside the interval"
        return f"within {percent(WITHIN)}" if near(self.expected, self.measured.value) else "no"

    @property
    def holds(self) -> bool:
        """Whether it is inside the measured interval, or within 15 % of the measured value."""
        return self.held != "no"

    def time_cells(self) -> dict[str, object]:
        """Cells of a table, for a prediction in seconds."""
        low, high = seconds(self.measured.low), seconds(self.measured.high)
        return self._cells("time", seconds, f"{seconds(self.measured.value)} [{low}, {high}]")

    def speedup_cells(self) -> dict[str, object]:
        """Cells of a table, for a predicted speedup."""
        return self._cells("speedup", times, str(self.measured))

    def _cells(self, of: str, told: Callable[[float], str], measured: str) -> dict[str, object]:
        return {
            f"{of}, predicted": told(self.expected),
            f"{of}, measured": measured,
            f"{of} held": self.held,
        }


def counted(pairs: Sequence[tuple[float, Ratio]]) -> str:
    """How many values lie inside the measured interval, and how many more within 15 %."""
    within = sum(inside(value, measured) for value, measured in pairs)
    close = sum(
        near(value, measured.value) and not inside(value, measured) for value, measured in pairs
    )
    return (
        f"{within} of {len(pairs)} lie inside the measured interval, and {close} more within "
        f"{percent(WITHIN)} of the measured value"
    )


def score(what: str, predictions: Sequence[Prediction]) -> str:
    """How many predictions held, in which way, and which did not. what: "times", say."""
    missed = [f"{p.name} ({p.error:+.1%})" for p in predictions if not p.holds]
    told = f"Of the predicted {what}, {counted([(p.expected, p.measured) for p in predictions])}."
    return f"{told} The others: {', '.join(missed)}." if missed else told


def no_change(measured: Sequence[Ratio]) -> str:
    """How the prediction that nothing changes would have done, beside those that were made."""
    return (
        "For comparison, had each been predicted to be as fast as its baseline (1.00x): "
        f"{counted([(1.0, one) for one in measured])}."
    )


def of_moment(name: str, ratio: Ratio) -> str:
    """How much slower or faster the machine was than when the predictions were made.

    ratio: measured times of a variant that nothing changed, over its predicted time.
    """
    return (
        f"The {name} took {ratio.value:.2f} times as long as predicted [{ratio.low:.2f}, "
        f"{ratio.high:.2f}], though nothing about it has changed. A machine that is slower or "
        "faster than before shifts all predicted times by such a factor, and no predicted speedup."
    )


def shown(ratio: Ratio) -> str:
    """What a speedup shows by its interval alone; verdicts are corrected in the findings."""
    if ratio.low > 1:
        return f"{ratio}; the interval lies above 1"
    if ratio.high < 1:
        return f"{ratio}; the interval lies below 1"
    least = effect(ratio.smallest_effect)
    return f"{ratio}; no difference is shown (these rounds could have seen one of {least})"


def not_below(expected: float, least: Least | None) -> float:
    """A predicted time that is not below the limit of the same thing.

    least: None where the limit was beaten, and so is none.
    """
    return expected if least is None else max(expected, least.seconds)


def limit_told(least: Least | None) -> str:
    """A limit by the best and by the slowest sustained rate of the run; a dash for none."""
    if least is None:
        return "–"
    if least.slowest is None:
        return seconds(least.seconds)
    return f"{seconds(least.seconds)} to {seconds(least.slowest)}"


def speedup_at(least: Least | None, baseline: float) -> str:
    """The speedup that a variant would have at its limit over the baseline as measured."""
    return "–" if least is None else times(baseline / least.seconds)


def limit_cells(least: Least, taken: float, baseline: float) -> dict[str, object]:
    """A variant's limit, and the speedup that it would have there over the baseline as measured.

    taken, baseline: measured seconds of the variant and of the baseline. A limit that was beaten
    is told in neither cell.
    """
    held = least.standing(taken)
    return {"limit": limit_told(held), "speedup at its limit": speedup_at(held, baseline)}


# Why a limit is missing from a table, for its caption.
DASH = "a dash for a limit: the variant was faster than it, so it was none"
EARLIER_DASH = (
    "a dash: in the earlier rounds the variant was faster than the limit, so it is none; no time "
    "is predicted below a limit"
)
# For the captions of tables with `limit_cells`.
LIMIT_NOTE = (
    "limit: by the best and by the slowest sustained rate of this run; speedup at its limit: the "
    f"measured time of the baseline over the limit by the best rate; {DASH}"
)
