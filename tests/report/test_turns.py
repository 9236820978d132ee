"""The sentence on what turns lost to other work."""

from __future__ import annotations

from typing import Any

from labkit.base.interference import Lost
from labkit.report.told.turns import MAIN, told_lost
from labkit.timing.compare import Comparison
from labkit.timing.trace import Trace

QUOTA = {"throttled": "no control group here tells how long its quota stopped it"}


def lost(*stolen: float | None, switches: int | None = 4) -> list[Lost]:
    return [Lost(1.0, 1, stolen=one, waited=one, switches=switches) for one in stolen]


def told_of(comparisons: dict[str, Comparison], **more: Any) -> str:
    """With spaces at which a line may break."""
    return told_lost(comparisons, **more).replace("\u00a0", " ")


def comparison(**turns: list[Lost]) -> Comparison:
    rounds = max(map(len, turns.values()), default=1)
    traces = {name: [Trace(0.0, (1.0, 2.0))] * rounds for name in turns}
    return Comparison("plain", traces, {}, lost=turns, uncounted=QUOTA)


def test_nothing_lost() -> None:
    told = told_of({MAIN: comparison(plain=lost(0.0, 0.005), fused=lost(0.0, 0.0))})
    assert told.startswith(
        "None of the 4 timed turns lost more than 2 % of its core time to other work. "
        "This counts time that the hypervisor gave to others (in steps of 10 ms), and time that "
        "ready threads of this process waited while others had a core. Not counted: no control "
        "group here"
    )
    assert told.endswith("off its core 4 times in the median turn, and 4 times at most.")


def test_turns_that_lost_more_are_named_the_worst_first() -> None:
    told = told_of({MAIN: comparison(plain=lost(0.0, 0.02), fused=lost(0.1, 0.3))})
    assert told.startswith(
        "3 of the 4 timed turns lost more than 2 % of their core time to other work: "
        "fused in round 2 (60 %), fused in round 1 (20 %), plain in round 2 (4 %). "
        "The numbers include all turns. "
    )


def test_one_turn_of_a_comparison_with_a_label() -> None:
    told = told_of(
        {MAIN: comparison(plain=lost(0.0)), "context 16": comparison(plain=lost(0.25))},
        apart=["context 16"],
    )
    assert told.startswith(
        "One of the 2 timed turns lost more than 2 % of its core time to other work: "
        "plain in round 1 of context 16 (50 %). "
    )
    assert "In context 16, variants ran in processes of their own" in told


def test_of_many_turns_some_are_named() -> None:
    told = told_of({MAIN: comparison(plain=lost(*[0.1] * 9))})
    assert told.startswith("9 of the 9 timed turns")
    assert told.count("plain in round") == 6
    assert ", and others, which lost less. The numbers include" in told


def test_nothing_is_said_where_nothing_was_counted() -> None:
    assert told_lost({}) == ""
    assert told_lost({MAIN: comparison()}) == ""
    nothing = [Lost(1.0, 1, switches=7)]
    assert told_lost({MAIN: comparison(plain=nothing)}) == ""


def test_without_switches_none_are_told() -> None:
    assert "taken off" not in told_lost({MAIN: comparison(plain=lost(0.0, switches=None))})
