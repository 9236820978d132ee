"""What the turns of comparisons lost to other work, in words."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from labkit.base.interference import LOST, Lost
from labkit.report.told.words import percent
from labkit.timing.compare import Comparison

MAIN = "rounds"  # the label of a study's main comparison, which need not be named
_NAMED = 6  # of the turns that lost too much, those that lost most
# What each counter counts.
_COUNTED = {
    "stolen": "time that the hypervisor gave to others (in steps of 10 ms)",
    "throttled": "time for which a quota stopped threads",
    "waited": "time that ready threads of this process waited while others had a core",
}


def told_lost(comparisons: Mapping[str, Comparison], apart: Collection[str] = ()) -> str:
    """How many turns of all rounds lost more than the share LOST of their core time to other work,
    which they were, and what was counted. Empty where nothing was counted.

    comparisons: by label. apart: labels of those whose variants ran in processes of their own.
    """
    turns = [one for each in comparisons.values() for some in each.lost.values() for one in some]
    if all(one.share is None for one in turns):
        return ""
    told = [_how_many(_disturbed(comparisons), len(turns)), _counted(comparisons)]
    if away := [label for label in comparisons if label in apart]:
        told.append(
            f"In {' and '.join(away)}, variants ran in processes of their own; how long threads "
            "waited there is not counted."
        )
    return " ".join([*told, _switches(turns)]).strip()


def _disturbed(comparisons: Mapping[str, Comparison]) -> list[str]:
    """The turns that lost more, those that lost most first: plain in round 4 (5 %)."""
    found = []
    for label, comparison in comparisons.items():
        within = f" of {label}" if label != MAIN else ""
        for (name, number), lost in comparison.disturbed().items():
            found.append((lost, f"{name} in round {number}{within} ({percent(lost)})"))
    return [where for _, where in sorted(found, key=lambda one: -one[0])]


def _how_many(disturbed: list[str], turns: int) -> str:
    count = len(disturbed)
    some = {0: "None", 1: "One"}.get(count, f"{count:,}")
    whose = "its" if count < 2 else "their"
    told = f"{some} of the {turns:,} timed turns lost more than {percent(LOST)} of {whose} core "
    if not disturbed:
        return f"{told}time to other work."
    named = ", ".join(disturbed[:_NAMED]) + (
        ", and others, which lost less" if count > _NAMED else ""
    )
    return f"{told}time to other work: {named}. The numbers include all turns."


def _counted(comparisons: Mapping[str, Comparison]) -> str:
    missing = {name: why for one in comparisons.values() for name, why in one.uncounted.items()}
    known = [what for name, what in _COUNTED.items() if name not in missing]
    told = f"This counts {', and '.join(known)}."
    return " ".join([told, *(f"Not counted: {why}." for why in missing.values())])


def _switches(turns: Collection[Lost]) -> str:
    """How often the system took a thread off its core."""
    found = [one.switches for one in turns if one.switches is not None]
    if not found:
        return ""
    return (
        f"A thread of this process was taken off its core {np.median(found):,.0f} times in the "
        f"median turn, and {max(found):,} times at most."
    )
