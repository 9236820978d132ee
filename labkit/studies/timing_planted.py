"""A comparison whose true result is known: a planted slowdown, and the baseline once more.

The true result is stated beforehand, and the measured one is compared with it.
"""

from __future__ import annotations

import math

import numpy as np

from labkit.report.told.words import effect
from labkit.timing.compare import Comparison
from labkit.timing.statistics import (
    LEVEL,
    MARGIN,
    MOST_ROUNDS,
    Ratio,
    holm,
    narrow_enough,
    rounds_needed,
    spread_at_most,
    trusted,
)

EFFECTS = (0.02, 0.05, 0.1, 0.2)  # true changes whose number of rounds is shown


def expected_speedup(slowdown: float) -> float:
    """The speedup of a variant whose tokens take `slowdown` longer: 0.1 gives 0.909."""
    return 1 / (1 + slowdown)


def expected_verdict(slowdown: float) -> str:
    """slower; or inconclusive where the slowdown lies within the margin of 1 %."""
    return "slower" if expected_speedup(slowdown) < 1 - MARGIN else "inconclusive"


def prediction(slowdown: float) -> str:
    """What the comparison should find, in sentences."""
    return (
        f"Each token of the slowed variant takes {slowdown:.0%} longer. So the true speedup is "
        f"1 / {1 + slowdown:g} = **{expected_speedup(slowdown):.3f}x**. With enough rounds its "
        f"verdict is *{expected_verdict(slowdown)}*, and the control shows no difference."
    )


def outcome(comparison: Comparison, name: str, slowdown: float) -> str:
    """What was predicted of the slowed variant and what was found, in sentences."""
    expected, found = expected_speedup(slowdown), comparison.speedup(name)
    inside = found.low <= expected <= found.high
    control = comparison.speedup(comparison.control)
    told = (
        f"Predicted {expected:.3f}x, measured {found}. The prediction lies "
        f"{'inside' if inside else 'outside'} the interval. The interval is "
        f"{found.high - found.low:.3f} wide after {comparison.rounds} rounds. The control is "
        f"{control}"
    )
    if comparison.trusted():
        return f"{told}: it shows no difference, as it must."
    return f"{told}: it shows a difference where there is none, so no verdict of this run counts."


def verdict_rules(comparison: Comparison, name: str) -> list[dict[str, object]]:
    """What a verdict about a variant needs, what this run has of it, and whether that is enough."""
    ratio, control = comparison.speedup(name), comparison.speedup(comparison.control)
    chances = {name: ratio.p_value, comparison.control: control.p_value}
    order = sorted(chances, key=lambda each: chances[each])
    level = LEVEL / (len(order) - order.index(name))
    effect = math.exp(abs(math.log(ratio.value))) - 1
    narrow = narrow_enough(ratio.value, (control.low, control.high))
    return [
        {
            "what a verdict needs": f"chance gives such a ratio in less than {level:.1%} of the "
            f"runs, where the true one lies within 1 ± {MARGIN:.0%}",
            "this run": f"{chances[name]:.2%}",
            "enough": name in holm(chances),
        },
        {
            "what a verdict needs": "a control that shows no difference",
            "this run": str(control),
            "enough": trusted(control),
        },
        {
            "what a verdict needs": f"a control narrower than the effect ({effect:.1%})",
            "this run": f"± {control.half_width:.1%}",
            "enough": narrow,
        },
    ]


def rounds_for(control: Ratio) -> dict[float, int]:
    """Rounds that each true change needs, by the spread of the control's own ratios."""
    return {effect: rounds_needed(control.rounds, effect) for effect in EFFECTS}


def told_rounds(count: int) -> str:
    """A number of rounds for a reader; the search ends at MOST_ROUNDS."""
    return str(count) if count < MOST_ROUNDS else f"{MOST_ROUNDS} or more"


def told_noise(control: Ratio, needed: int) -> str:
    """How noisy the machine was, and what follows, in sentences. needed: rounds to see 5 %."""
    spread, rounds = float(np.std(np.log(control.rounds), ddof=1)), len(control.rounds)
    return (
        f"The control's ratios spread by {spread:.1%} from round to round. If the true spread is "
        f"just that, the {rounds} rounds of this run show a true change of "
        f"{effect(control.smallest_effect)} in **4 of 5** such runs: that is what *could have "
        "seen* tells. The table asks for more. A change must be seen in **19 of 20** runs, and the "
        f"true spread may be as large as {spread_at_most(control.rounds):.1%}, for {rounds} rounds "
        "know it no better than that (90 %). So a change of 5 % takes "
        f"**{told_rounds(needed)} rounds**. The control is known to ± {control.half_width:.1%}: no "
        "smaller effect can be claimed."
    )
