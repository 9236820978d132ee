"""The sentences of notebook 03, from its numbers. All times are in seconds."""

from __future__ import annotations

from collections.abc import Mapping

from labkit.base.units import scaled, seconds
from labkit.quality.lossless import SameAnswer
from labkit.report.told.words import percent, times
from labkit.studies.predictions import shown
from labkit.timing.statistics import Ratio


def between(ratio: Ratio) -> str:
    """A share with its interval: 62 % [58, 66]."""
    return f"{percent(ratio.value)} [{100 * ratio.low:.0f}, {100 * ratio.high:.0f}]"


def of_answers(found: Mapping[str, SameAnswer]) -> str:
    """How far the rungs' tokens agree with the plain decoder's."""
    name, worst = min(found.items(), key=lambda pair: pair[1].equal)
    count = f"{len(found)} rungs were compared with the plain decoder"
    if worst.margin is None:
        return f"{count}. **All {worst.tokens} greedy tokens are equal on each of them.**"
    return f"{count}, {worst.tokens} greedy tokens each. The first to differ: **{name}**, {worst}."


def of_overhead(
    products: float, part: Ratio, share: Ratio | None, others: int, overhead: float | None
) -> str:
    """Where a token of the plain decoder spends its time, in the earlier rounds.

    products: seconds of the products alone. part: over the token. share: of the bare read of their
    bytes. others: operations that are no products. overhead: seconds of one; None: not measurable.
    """
    reach = f" They reach {between(share)} of the bare read of their bytes." if share else ""
    said = (
        f"Before any rung was compared, the plain decoder was timed on other prompts, and in the "
        f"same rounds its matrix products alone. The products take {seconds(products)}, "
        f"{between(part)} of the token's time.{reach} "
    )
    if overhead is None:
        return said + (
            f"That leaves no measurable rest for the other {others:,} operations of a token. So no "
            "time is predicted."
        )
    return said + (
        f"The rest is spent on the token's {others:,} other operations, {seconds(overhead)} each "
        "on average."
    )


def of_smallest(price: float, operations: int, overhead: float | None) -> str:
    """An operation with next to nothing to do, beside one within a token."""
    said = (
        f"An operation with next to nothing to do, the sum of two rows, takes {seconds(price)}. "
        f"{operations:,} of them, as many as the plain decoder dispatches for a token, would take "
        f"{seconds(operations * price)}."
    )
    if overhead is None:
        return said
    return (
        f"{said} On average an operation of a token takes {times(overhead / price)} as long. The "
        "average divides all of the token's time except its products by the number of operations. "
        "So it includes what the operations compute, and the Python code between them."
    )


def of_logits(name: str, tokens: int, speedup: float) -> str:
    """The prediction for a prompt's pass that makes the logits of its last row only."""
    return (
        f"The predicted speedup of the {name} is {times(speedup)}. It is made from prompts that "
        f"were timed before, and from the head alone, timed for {tokens:,} rows and for one."
    )


def of_rewrite(name: str, fewer: int, merging: Ratio | None, measured: Ratio) -> str:
    """One rewrite alone: its operations, its products, and what was measured.

    fewer: operations that it removes. merging: the speedup of its matrix products alone, where they
    are not the plain decoder's. measured: its speedup.
    """
    change = f"removes {fewer:,}" if fewer >= 0 else f"adds {-fewer:,}"
    products = "its matrix products are those of the plain decoder"
    if merging is not None:
        products = f"the speedup of its matrix products, timed alone, is {merging}"
    return f"**{name}** {change} operations; {products}. Measured: {shown(measured)}."


def of_compiled(
    name: str, pieces: int, kernels: int, operations: int, compiling: float, paid: float | None
) -> str:
    """The compiled step: its operations against the plain decoder's, and what compiling took.

    paid: tokens until the time is paid back; None where the interval shows no gain.
    """
    back = "In these rounds its speedup is not shown, so no number of tokens pays this back."
    if paid is not None:
        back = f"At the measured saving, {paid:,.0f} tokens pay this back."
    return (
        f"**{name}**: it runs {pieces:,} operations instead of {operations:,}; {kernels} of them "
        f"are generated kernels. Compiling took {seconds(compiling)}. {back} A cache of another "
        "capacity needs another compilation."
    )


def of_last_row(name: str, tokens: int, flops: float, whole: float, measured: Ratio) -> str:
    """The cost of all logits over those of the last row.

    flops: of the head for the other rows. whole: of the pass with all logits. measured: the
    speedup without them.
    """
    return (
        f"**{name}**: for the other {tokens - 1:,} rows the head computes {scaled(flops, 'FLOP')}, "
        f"{flops / whole:.0%} of the pass with all logits. Measured without them: "
        f"{shown(measured)}. Generation needs the logits of the last row only."
    )


def elsewhere(operations_a_layer: float, price: float, overhead: float | None) -> str:
    """How to read the table of other machines and models.

    price: seconds of an operation with next to nothing to do. overhead: of one within a token on
    average, which the table takes; None where it is not measurable, and the table takes the price.
    """
    smallest, which = "an operation with next to nothing to do takes", ""
    took = f"that each takes {seconds(price)} on every machine, as {smallest} on this one"
    if overhead is not None:
        which = " beside its matrix products"
        took = (
            f"that each takes {seconds(overhead)} on every machine, the average that is told above "
            f"for this one. With {seconds(price)}, which {smallest}, all figures would be "
            f"{times(overhead / price).removesuffix('x')} times smaller"
        )
    return (
        f"The plain decoder dispatches {operations_a_layer:.0f} operations a layer{which}. The "
        f"table assumes {took}. Far below 1, reading the weights takes most of the time, "
        "and removing operations saves little. Above 1, the overhead is longer than reading the "
        "weights. Then try a compiled step or a CUDA graph first: it launches all kernels at once. "
        "A dash: the weights fit the last-level cache, whose bandwidth the datasheet does not tell."
    )
