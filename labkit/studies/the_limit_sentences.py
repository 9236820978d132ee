"""The sentences of notebook 15, from the run's own numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from labkit.base.units import scaled, seconds
from labkit.bench.run import Measured
from labkit.limits.cost import Cost
from labkit.report.told.words import effect, same_bytes
from labkit.studies.fused_stages import PRODUCTS, REST, Share, summed
from labkit.studies.lab import TIMES, told_share
from labkit.studies.the_limit_tables import told_time
from labkit.studies.the_limit_variants import ALL_LOGITS, BF16, FUSED, Q8, TRANSFORMERS, over
from labkit.timing.compare import Comparison
from labkit.timing.statistics import Ratio, interval


def times_as_fast(ratio: Ratio) -> str:
    """3.10x [2.95, 3.26] as fast."""
    return f"{ratio} as fast"


def control(comparison: Comparison) -> str:
    """What the baseline's second turn showed, in each phase."""
    told = {
        phase: comparison.speedup(comparison.control, TIMES[phase])
        for phase in ("decode", "prefill")
    }
    both = " and ".join(f"{ratio} in {phase}" for phase, ratio in told.items())
    said = f"The control is {comparison.baseline} a second time in each round: {both}."
    wrong = [phase for phase in told if not comparison.trusted(TIMES[phase])]
    if not wrong:
        return f"{said} It shows no difference, as it must."
    return f"{said} It shows a difference, so no verdict about {' and '.join(wrong)} holds."


def against_bare(found: Measured, mine: str) -> str:
    """The fused decoder against reading the same bytes and nothing else, in the same rounds."""
    comparison = found.comparison
    share, cost = comparison.share(mine), found.costs[mine, "tpot"]
    rate = 1 / comparison.mean(mine)
    if share is None:
        return f"`{mine}` decodes {rate:,.0f} tokens a second."
    return (
        f"`{mine}` decodes {rate:,.0f} tokens a second. That is **{told_share(share)} of the bare "
        f"read**: this process read the same {scaled(cost.read_bytes, 'B')} and computed nothing, "
        "in turns of the same rounds."
    )


def sharing(found: Measured, mine: str, others: Sequence[str]) -> list[str]:
    """The engines that read the same weights as a variant, in the same form."""
    own = found.costs[mine, "tpot"].read_bytes
    return [
        name
        for name in others
        if (cost := found.costs.get((name, "tpot")))
        and same_bytes(cost.read_bytes, own)
        and found.loaded[name].same_weights
    ]


def against_others(found: Measured, mine: str, others: Sequence[str]) -> str:
    """The fused decoder against the engines that read the same bytes, and against transformers."""
    comparison, costs, _ = found
    own, same = costs[mine, "tpot"].read_bytes, sharing(found, mine, others)
    told = [
        f"`{name}` reads the same weights as they are: `{mine}` is "
        f"**{times_as_fast(over(comparison, mine, name))}**."
        for name in same
    ]
    if not same:
        told.append("No other engine of this run reads the same weights in the same form.")
    for name, dtype in ((TRANSFORMERS, "float32"), (BF16, "bfloat16")):
        if (cost := costs.get((name, "tpot"))) and name in comparison.traces:
            told.append(
                f"transformers in {dtype} reads {cost.read_bytes / own:.1f} times the bytes: "
                f"`{mine}` is {times_as_fast(over(comparison, mine, name))}."
            )
    return " ".join(told)


def screening(found: Measured) -> str:
    """What reading a screen instead of the head saved in bytes and in time."""
    comparison, costs = found.comparison, found.costs
    saved = 1 - costs[FUSED, "tpot"].read_bytes / costs[ALL_LOGITS, "tpot"].read_bytes
    ratio = over(comparison, FUSED, ALL_LOGITS)
    told = f"Screening the head reads {saved:.1%} fewer bytes. In these rounds `{FUSED}` was "
    told += f"{times_as_fast(ratio)} as `{ALL_LOGITS}`"
    if ratio.low > 1:
        return f"{told}: the interval lies above 1."
    if ratio.high < 1:
        return f"{told}: the interval lies below 1, so screening cost time here."
    return (
        f"{told}. The interval includes 1: this run shows no gain. It would have seen one of "
        f"{effect(ratio.smallest_effect)}."
    )


def of_the_step(found: Measured, mine: str) -> str:
    """The time of a decode step in the rounds, and what reading takes of it."""
    comparison = found.comparison
    share, step = comparison.share(mine), comparison.mean(mine)
    told = f"A decode step of `{mine}` took {told_time(interval(comparison.values(mine)))}."
    if share is None:
        return told
    read = scaled(found.costs[mine, "tpot"].read_bytes, "B")
    return (
        f"{told} Reading its {read} and nothing else took {seconds(share.value * step)} in the "
        f"same rounds, {told_share(share)} of the step."
    )


def of_the_stages(shares: Mapping[str, Share]) -> str:
    """What the products take of a step, and what the other stages take."""
    measured = [name for name in shares if shares[name].measurable and name != REST]
    products = [name for name in measured if name in PRODUCTS]
    told = [
        f"{what} ({', '.join(names)}) take {sum(shares[name].value for name in names):.0%}"
        for what, names in (
            ("the matrix products", products),
            ("the other stages", [name for name in measured if name not in PRODUCTS]),
        )
        if names
    ]
    if not told:
        return "No stage was measurable in these rounds."
    whole = summed(shares)
    more = (
        f" Together that is {whole:.0%}: where two stages wait for each other, leaving out either "
        "saves the same time, which is counted twice."
        if round(whole, 2) > 1
        else ""
    )
    return f"Of a step, {'; '.join(told)}.{more}"


def two_moments(passes: Ratio, rounds: Ratio) -> str:
    """Why a step was timed twice, and both times."""
    return (
        "These shares and ratios come from passes of the fused decoder by itself: in this process, "
        "after the rounds above, without the loop that hands out tokens. A step took "
        f"{told_time(passes)} there, and {told_time(rounds)} in the rounds. So only ratios are "
        "told from these passes; times are these shares of the step in the rounds."
    )


def long_context(found: Comparison, short: int, long: int, costs: Sequence[Cost]) -> str:
    """What a step at a long context takes, over a step at the usual one."""
    first, name = found.variants
    ratio = over(found, first, name)
    share = found.share(name)
    told = (
        f"At a context of {long:,} tokens a step reads {scaled(costs[1].read_bytes, 'B')}, "
        f"{costs[1].read_bytes / costs[0].read_bytes:.2f} times as much as at {short:,}. It took "
        f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}] times as long, by itself and "
        "interleaved"
    )
    return f"{told}." if share is None else f"{told}: {told_share(share)} of its bare read."


def of_names(names: Sequence[str]) -> str:
    """What the fused decoder is called on this page; empty where it did not run."""
    forms = {
        ALL_LOGITS: "the file's weights as they are",
        FUSED: "the same with the head screened",
        Q8: "weights rounded anew to Q8_0",
    }
    told = [f"`{name}` ({form})" for name, form in forms.items() if name in names]
    return f"The fused decoder runs as {', '.join(told)}." if told else ""
