"""The sentences of notebook 03, from its numbers. All times are in seconds."""

from __future__ import annotations

from labkit.base.units import scaled, seconds


def change(saved: float) -> str:
    """A saving in words: "1.2 ms less", or "1.2 ms more" where it is negative."""
    return f"{seconds(abs(saved))} {'less' if saved > 0 else 'more'}"


def saving(estimate: float) -> str:
    """An estimated saving for a table; negative where a rung adds operations."""
    return seconds(estimate) if estimate else "–"


def rest(value: float) -> str:
    """A difference of two measured times for a reader; it can be negative where it is small."""
    return seconds(value) if value > 0 else "no measurable rest"


def estimate(operations: int, price: float, least: float) -> str:
    """The overhead of all operations of the plain decoder, against its limit."""
    return (
        f"The plain decoder dispatches {operations:,} operations a token. With an overhead of "
        f"{seconds(price)} each, this makes {seconds(operations * price)}, which is "
        f"**{operations * price / least:.0%} of the limit** ({seconds(least)}). The savings in the "
        "table are estimates, not bounds: within a pass an operation can take longer than its "
        "measured overhead."
    )


def of_rewrite(
    name: str, fewer: int, price: float, products: str, saved: float, verdict: str
) -> str:
    """One rewrite alone: the estimate of its saving, its products, and what was measured.

    fewer: operations. products: a clause about its matrix products. saved: measured, for one token.
    """
    change_of = f"removes {fewer:,}" if fewer >= 0 else f"adds {-fewer:,}"
    return (
        f"**{name}**: it {change_of} operations, so a token should take "
        f"{change(fewer * price)}; {products}. Measured: {change(saved)} (verdict: {verdict})."
    )


def of_plain(token: float, products: float, least: float) -> str:
    """Where a token of the plain decoder spends its time: its products, and the rest."""
    said = (
        f"A token of the plain decoder takes {seconds(token)}. Its matrix products, timed alone, "
        f"take {seconds(products)}; its limit is {seconds(least)}. "
    )
    if products >= token:
        return said + "That leaves no measurable rest for all other operations."
    return said + (
        f"The other {1 - products / token:.0%} of its time is spent on other operations. Merging "
        "changes both parts; the other rewrites change only the second."
    )


def of_compiled(
    name: str,
    pieces: int,
    kernels: int,
    operations: int,
    saved: float,
    compiling: float,
    paid_after: float | None,
) -> str:
    """The compiled step: its operations against the plain decoder's, and what compiling took.

    paid_after: tokens until the time is paid back; None where the rounds show no gain.
    """
    paid = "In these rounds the compiled step is not faster, so this time is not paid back."
    if paid_after is not None:
        paid = f"At the measured saving, this is paid back after {paid_after:,.0f} tokens."
    return (
        f"**{name}**: it runs {pieces:,} operations instead of {operations:,}; {kernels} of them "
        f"are generated kernels. Measured: {change(saved)} a token. Compiling took "
        f"{seconds(compiling)}. {paid} A cache of another capacity needs another compilation."
    )


def of_last_row(
    name: str, tokens: int, flops: float, whole: float, extra: float, total: float, verdict: str
) -> str:
    """The cost of all logits over those of the last row.

    flops: of the head for the other rows. whole: of the pass with all logits. total: measured
    seconds of that pass. extra: what the pass with the last logits saves of them.
    """
    return (
        f"**{name}**: for the other {tokens - 1:,} rows the head computes {scaled(flops, 'FLOP')}, "
        f"{flops / whole:.0%} of the pass with all logits. That pass takes {seconds(total)}. "
        f"Without these logits, prefill takes {change(extra)} (verdict: {verdict}). Generation "
        "needs the logits of the last row only."
    )


def elsewhere(operations_a_layer: float, price: float) -> str:
    """How to read the table of other machines and models."""
    return (
        f"The plain decoder dispatches {operations_a_layer:.0f} operations a layer. The table "
        f"assumes an overhead of {seconds(price)} for each on every machine, as measured on this "
        "one. Far below 1, reading the weights takes most of the time, and removing operations "
        "saves little. Above 1, the overhead is longer than reading the weights. Then try a "
        "compiled step or a CUDA graph first: it launches all kernels at once."
    )
