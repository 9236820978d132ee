"""Sentences of notebook 05, from what it measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from labkit.base.units import seconds
from labkit.engine.row_costs import RowCosts
from labkit.optimize.speculative.predict import acceptance_for
from labkit.quality.lossless import SameAnswer
from labkit.studies.predictions import counted, no_change
from labkit.studies.speculative_forecast import Held
from labkit.studies.speculative_prompts import Rounds, together
from labkit.studies.speculative_target import KeptHead
from labkit.studies.speculative_tasks import PLAIN
from labkit.timing.statistics import MARGIN, Ratio
from labkit.workload.tasks import GROUNDED


def with_interval(ratio: Ratio) -> str:
    """1.29 [1.25, 1.33]: a ratio of times that is no speedup."""
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def pays(length: int, costs: RowCosts) -> str:
    """The acceptance rate from which drafts of a length pay, in words.

    A measured cost of rows counts with its interval: nothing is told that the interval leaves open.
    """
    rows, passes = length + 1, costs.r(length + 1)
    measured = costs.measured.get(rows)
    low, high = (passes, passes) if measured is None else (measured.low, measured.high)
    told = least_acceptance(length, costs)
    if low >= rows:
        return f"at no acceptance rate: {rows} rows take as long as {rows} passes of one row"
    if high <= 1 + MARGIN:
        return f"at any acceptance rate: {rows} rows take as long as one, within {MARGIN:.0%}"
    if high >= rows and low <= 1:
        return f"from a rate that cannot be told: r({rows}) was measured too roughly"
    if low <= 1:
        return f"from {told} on: {rows} rows did not measurably take longer than one"
    return f"from an acceptance rate of {told} on"


def least_acceptance(length: int, costs: RowCosts) -> str:
    """The same as a number with its interval, for a cell; a word where no number means anything."""
    rows, passes = length + 1, costs.r(length + 1)
    measured = costs.measured.get(rows)
    low, high = (passes, passes) if measured is None else (measured.low, measured.high)
    if low >= rows:
        return "none"
    if high <= 1 + MARGIN:
        return "any"
    if high >= rows and low <= 1:
        return "not known"
    least, most = (min(1.0, acceptance_for(end, length)) for end in (low, high))
    if low <= 1:
        return f"a rate below {most:.2f}"
    value = f"{min(1.0, acceptance_for(passes, length)):.2f}"
    return value if measured is None else f"{value} [{least:.2f}, {most:.2f}]"


def told_rows(costs: RowCosts, rows: int, where: str, spread: float) -> str:
    """What a pass of several rows costs, and how that was measured. spread: seconds."""
    found = costs.measured[rows]
    return (
        f"A pass of {rows} rows takes **{with_interval(found)}** times as long as a pass of one "
        f"row, which takes {seconds(costs.seconds)}: r({rows}), after {costs.context} tokens, on "
        f"{where}. The interval is over {len(found.rounds)} rounds, spread over "
        f"{seconds(spread)}: between the rounds, the decoder answered the calibration tasks. Every "
        "cost of rows on this page is from this measurement."
    )


def told_limit(costs: RowCosts, limit: RowCosts, rows: int, dtype: str) -> str:
    """The measured cost of rows against the one at the limit of this machine."""
    found, least = costs.measured[rows], limit.r(rows)
    text = (
        f"At the limit of this machine r({rows}) is {least:.2f}, by the best sustained rates of "
        f"this run for reading memory and for {dtype} products."
    )
    if found.low > least * (1 + MARGIN):
        return (
            f"{text} So reading and multiplying alone do not explain what extra rows cost here. "
            "The limit leaves out everything else that a decoder does for each row."
        )
    if found.high < least / (1 + MARGIN):
        return (
            f"{text} Measured rows cost less than that, because a pass of one row is further from "
            f"its own limit than a pass of {rows} rows is."
        )
    return text


ELSEWHERE = (
    "Notebook 15 measures T(k) / T(1) of the same decoder too, but with all logits of every row, "
    "after another number of tokens, and at another moment. So its numbers may differ from these."
)


def told_head(head: KeptHead | None) -> str:
    """How the head was trained and its cost, in sentences; or how to train one."""
    if head is None:
        return (
            "No head has been trained for this model, so nothing below uses one. "
            "`.venv/bin/python -m labkit.optimize.speculative.head.train` trains one: up to 20 "
            "minutes to write text, and 30 to train. Then this notebook compares it with the other "
            "drafts."
        )
    recipe, cost = head.recipe, head.cost
    return (
        f"The learned head was trained for {recipe['minutes']:.0f} minutes on "
        f"{recipe['tokens']:,} tokens of the target's own text. On text that was kept from "
        f"training, its likeliest token is the target's at {recipe['agreement']:.0%} of positions. "
        f"The first token of a draft costs {cost.first:.2f} passes of one row, each further token "
        f"{cost.further:.2f}."
    )


def told_same(same: Sequence[SameAnswer], settings: int) -> str:
    """How many greedy answers of so many settings are equal, and how many differ at a tie."""
    exact = sum(one.margin is None for one in same)
    text = (
        f"Greedy: **{exact} of {len(same)}** answers, {len(same) // settings} with each of "
        f"{settings} settings, equal those without drafts in every token "
        f"({sum(one.tokens for one in same):,} tokens compared)"
    )
    ties = len(same) - exact
    return f"{text}; {ties} first differ at a tie within rounding." if ties else f"{text}."


def told_over(kinds: Iterable[Rounds]) -> str:
    """What the intervals are over."""
    kinds = list(kinds)
    over = [one for one in kinds if one.over_prompts]
    if not over:
        return (
            "Each interval of a kind is over rounds of its one prompt, and says nothing of other "
            "prompts."
        )
    counts = sorted({one.prompts for one in over})
    told = f"Each interval is over the {' or '.join(map(str, counts))} prompts of a kind"
    if len(over) < len(kinds):
        told += "; where a kind has one prompt, it is over rounds"
    return f"{told}. It covers the difference between prompts as well as that between rounds."


def told_held(held: Sequence[Held]) -> str:
    """How many forecasts were right and how many were not, and whether the counts add up."""
    missed = [one for one in held if not one.holds]
    told = [f"Of the forecasts, {counted([(one.forecast, one.measured) for one in held])}."]
    if missed:
        told.append(f"The table lists the other {len(missed)}.")
    told.append(no_change([one.measured for one in held]))
    consistent = sum(one.consistent for one in held)
    told.append(
        f"A check of consistency, which is no forecast: with the counts of the timed answers "
        f"themselves and the same cost of rows, {consistent} of {len(held)} speedups lie within "
        "15 % of the measured ones."
    )
    return " ".join(told)


def told_along(along: Mapping[int, Ratio], change: Ratio) -> str:
    """How the mean speedup depends on the answer's length. change: from the first to the last."""
    first, *_, last = along
    text = (
        f"Over all prompts, the mean speedup is **{along[first]}** for the first {first} tokens "
        f"and **{along[last]}** for {last}."
    )
    if change.low > 1:
        return (
            f"{text} From one to the other it grows by {change}. At the start of an answer, the "
            "setting does not know the acceptance rate of this text yet, and uses a usual one."
        )
    if change.high < 1:
        return f"{text} From one to the other it falls, to {change} of what it was."
    return f"{text} These prompts do not show that the length matters (last over first: {change})."


def told_gains(timed: Mapping[str, Rounds], setting: str) -> str:
    """The speedup of a setting by kind, and its mean over all prompts."""
    gains = [one.speedup(setting).value for one in timed.values()]
    text = (
        f"By kind of task, the speedup of the {setting} setting is {min(gains):.2f}x to "
        f"{max(gains):.2f}x. Its mean over the prompts of all kinds is "
        f"**{together(timed.values(), setting)}**"
    )
    if grounded := [one for kind, one in timed.items() if kind in GROUNDED]:
        return (
            f"{text}, and **{together(grounded, setting)}** over those of the kinds whose answers "
            "repeat words of the prompt."
        )
    return f"{text}."


def told_twice(costs: RowCosts, timed: Mapping[str, Rounds]) -> str:
    """Why a pass of one row has two times on the page: when rows were measured, and later."""
    later = [one.comparison.mean(PLAIN) for one in timed.values()]
    return (
        f"A pass of one row took {seconds(costs.seconds)} when the cost of rows was measured, in "
        f"turns with larger passes after {costs.context} tokens. In the timed rounds it took "
        f"{seconds(min(later))} to {seconds(max(later))}, by kind of task. So this page takes "
        "only ratios from the cost of rows, never times."
    )


def told_computed(sent: float, forecast: float | None, measured: Ratio) -> str:
    """What the three mean speedups of the automatic setting on this page are from.

    sent: that of the table of machines for this one. forecast: over all kinds; None without one.
    """
    before = (
        ""
        if forecast is None
        else f"The forecast, {forecast:.2f}x, is from the acceptance on the calibration texts and "
        "the measured cost of rows. "
    )
    return (
        "The mean speedup of the automatic setting stands on this page in several ways. "
        f"{before}The last column, {sent:.2f}x for this machine as measured, is computed from the "
        "drafts that were accepted on the timed texts and the measured cost of rows, without the "
        f"time of drafting. Measured is {measured}: the timed rounds themselves, at another moment "
        "than the cost of rows."
    )


def told_skipped(speedups: Sequence[float], kept: int, layers: int, a_token: float) -> str:
    """What self-speculation is expected to give. a_token: cost of a drafted token, in passes."""
    return (
        f"Self-speculation with {kept} of {layers} layers is expected to give "
        f"**{min(speedups):.2f}x to {max(speedups):.2f}x**, if a token of its draft costs its "
        f"share of the weights, {a_token:.2f} of a pass. It is not timed below."
    )
