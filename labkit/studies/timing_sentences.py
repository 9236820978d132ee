"""What notebook 01 says of its samples: each sentence claims only what they show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labkit.base.units import seconds
from labkit.studies.pitfalls import middle
from labkit.timing.statistics import outliers

LATER = 12  # of the last calls of a fresh model: those that are warm in any case


def naive(claimed: Sequence[float], real: float) -> str:
    """The naive benchmark's seconds beside those of a real pass."""
    return (
        f"Five runs of the same code took between {seconds(min(claimed))} and "
        f"{seconds(max(claimed))}. This is the time of calling the function and the clock. A "
        f"real pass takes {real / np.median(claimed):,.0f} times as long. The system may also "
        "set `time.time()` back during a measurement; a monotonic clock never goes back."
    )


def warm_up(cold: Sequence[float], cut: int) -> str:
    """Whether the first calls were slower. cold: seconds. cut: how many the rule drops."""
    later = cold[-LATER:]
    low, high = middle(later, 0.9)
    told = (
        f"The first call took {seconds(cold[0])}. Of the last {len(later)} calls, 90 % took "
        f"between {seconds(low)} and {seconds(high)}"
    )
    rule = f"The rule counts {cut} of {len(cold)} calls as warm-up."
    if cut == len(cold):
        rule = "The rule finds no steady part: the calls differed to the end."
    if cold[0] > high:
        times = cold[0] / float(np.median(later))
        return (
            f"{told}: the first call was {times:.2f} times as long as the median of these. {rule}"
        )
    return f"{told}: the first call lies within, so no warm-up was visible in this run. {rule}"


def one_sample(steady: Sequence[float]) -> str:
    """How far samples of the same work lie apart."""
    low, high = middle(steady, 0.9)
    return (
        f"The samples go from {seconds(min(steady))} to {seconds(max(steady))}; 90 % of them lie "
        f"between {seconds(low)} and {seconds(high)}, so two single samples can differ by "
        f"{high / low - 1:.0%} where nothing changed. {len(outliers(steady))} of {len(steady)} are "
        "outliers; none is removed."
    )


def not_waiting(queued: float, done: float) -> str:
    """Seconds until work was handed over, and until it was done."""
    return (
        f"The work is handed over after **{seconds(queued)}** and done after **{seconds(done)}**. "
        f"A clock that does not wait reports a speed {done / queued:,.0f} times too high."
    )


def drift(blocks: Sequence[float] | np.ndarray, interleaved: Sequence[float] | np.ndarray) -> str:
    """Speedups found where nothing changed, timed in blocks and interleaved."""
    wide, narrow = middle(blocks, 0.95), middle(interleaved, 0.95)
    told = (
        f"In blocks, 95 % of the comparisons give between {wide[0]:.2f}x and {wide[1]:.2f}x. "
        f"Interleaved, 95 % give between {narrow[0]:.2f}x and {narrow[1]:.2f}x. "
    )
    widths = [high - low for low, high in (wide, narrow)]
    if widths[0] <= widths[1]:
        return (
            f"{told}In this run blocks did no worse: the machine did not drift from one block to "
            "the next. Nobody knows that beforehand."
        )
    times = f"{widths[0] / widths[1]:.1f} times as wide as" if widths[1] else "wider than"
    return f"{told}The range of blocks is {times} that of interleaved samples."
