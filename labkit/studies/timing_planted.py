"""A comparison whose true result is known: a planted slowdown, and the baseline once more.

The true result is stated beforehand, and the measured one is compared with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from labkit.timing.compare import Comparison
from labkit.timing.statistics import MARGIN, MOST_ROUNDS, rounds_needed

EFFECTS = (0.02, 0.05, 0.1, 0.2)  # true changes whose number of rounds is shown


def expected_speedup(slowdown: float) -> float:
    """The speedup of a variant whose tokens take `slowdown` longer: 0.1 gives 0.909."""
    return 1 / (1 + slowdown)


def expected_verdict(slowdown: float) -> str:
    """slower; or inconclusive where the slowdown lies within the margin of 1 %."""
    return "slower" if expected_speedup(slowdown) < 1 - MARGIN else "inconclusive"


def round_ratios(comparison: Comparison, name: str) -> NDArray[np.float64]:
    """The paired speedup of a variant in every round, of its TPOT; as `Comparison.speedup` pairs.

    The control is compared with the baseline's first run, any other with the mean of both runs.
    """
    base = np.array(comparison.values(comparison.baseline))
    if name != comparison.control:
        base = (base + np.array(comparison.values(comparison.control))) / 2
    return base / np.array(comparison.values(name))


def outcome(comparison: Comparison, name: str, slowdown: float) -> str:
    """What was predicted of the slowed variant and what was found, in sentences."""
    expected, found = expected_speedup(slowdown), comparison.speedup(name)
    inside = found.low <= expected <= found.high
    told = (
        f"Predicted {expected:.3f}x, measured {found}. The prediction lies "
        f"{'inside' if inside else 'outside'} the interval. The interval is "
        f"{found.high - found.low:.3f} wide after {comparison.rounds} rounds. The control is "
        f"{comparison.speedup(comparison.control).verdict}"
    )
    if comparison.trusted():
        return f"{told}, as it should be."
    return f"{told}: it should be inconclusive, so no verdict of this run can be believed."


def rounds_for(noise: Sequence[float] | NDArray[np.float64]) -> dict[float, int]:
    """Rounds that each true change needs, drawn from the control's own ratios."""
    return {effect: rounds_needed(list(noise), effect) for effect in EFFECTS}


def told_rounds(count: int) -> str:
    """A number of rounds for a reader; the search ends at MOST_ROUNDS."""
    return str(count) if count < MOST_ROUNDS else f"{MOST_ROUNDS} or more"


def told_noise(
    noise: Sequence[float] | NDArray[np.float64], needed: int, rates: Sequence[float]
) -> str:
    """How noisy the machine was, in sentences.

    noise: the control's ratios. needed: rounds for a change of 5 %. rates: bandwidth, bytes/s.
    """
    return (
        f"The control's ratios have a standard deviation of {np.std(noise):.1%} on this machine, "
        f"so it takes about **{told_rounds(needed)} rounds** to find a change of 5 %. In the same "
        f"rounds the bandwidth of the memory went from {min(rates) / 1e9:.3g} to "
        f"{max(rates) / 1e9:.3g} GB/s. Each round's limit uses the bandwidth of that round."
    )
