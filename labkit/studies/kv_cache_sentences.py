"""The sentences of notebook 02, from its numbers. All times are in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labkit.base.units import scaled, seconds
from labkit.studies.predictions import shown
from labkit.timing.statistics import Ratio


def of_window(name: str, quality: Mapping[str, Any] | None) -> str:
    """What the window cost in answers; quality: as `forgetful` returns it."""
    if quality is None:
        return (
            f"The answers of the **{name}** were not judged: the text is too short for it to drop "
            "tokens at enough positions. Raise quality_tokens or lower window."
        )
    low, high = quality["perplexity_ratio_low"], quality["perplexity_ratio_high"]
    return (
        f"**{name}** against the full cache, at {quality['positions']:,} positions where it had "
        f"dropped tokens: the same top token at {quality['top1_agreement']:.1%} of them, and "
        f"{quality['perplexity_ratio']:.3f} times the perplexity [{low:.3f}, {high:.3f}]."
    )


def of_sliding(name: str, slid: int, timed: int) -> str:
    """How many of the timed steps of an answer dropped a token."""
    if slid == timed:
        return f"The **{name}** dropped tokens in each of the {timed} timed steps of an answer."
    if slid == 0:
        return (
            f"The **{name}** dropped no token in the {timed} timed steps of an answer. So these "
            "rounds say nothing about a window, and its finding is left out. Lower window, or "
            "raise prompt_tokens."
        )
    return f"The **{name}** dropped tokens in {slid} of the {timed} timed steps of an answer."


def of_earlier(shorter: int, context: int, rounds: int, middle: int) -> str:
    """What the predictions are made from: steps after these contexts.

    middle: the context in the middle of the answers that are compared first.
    """
    return (
        f"To predict the times, steps after {context:,} tokens of another text were timed first, "
        f"in {rounds} rounds; without a cache, after {shorter:,} tokens as well. The prediction "
        "with a cache: the time of such a step, and the additional bytes at the run's best "
        "bandwidth; the growing cache also reads and writes them to copy them. The prediction "
        "without a cache: from the shorter context on, the time grows in proportion to the FLOPs. "
        f"It is made up to {2 * context:,} tokens. The row of {middle:,} tokens is the middle of "
        "the answers that are compared first; the other rows are contexts of the curve."
    )


def of_growing(context: int, growing: Ratio, copied: float, least: float) -> str:
    """The growing cache against the static one, after the longest context.

    growing: its speedup over the static cache. copied: bytes that a token reads and writes to
    copy. least: seconds for as many bytes at the run's best read bandwidth, where known.
    """
    return (
        f"After {context:,} tokens, the growing cache copies its keys and values for each token: "
        f"it reads and writes {scaled(copied, 'B')}. Reading as many bytes takes {seconds(least)} "
        f"at the run's best bandwidth. Measured against the static cache: {shown(growing)}."
    )


def of_narrow(name: str, context: int, narrow: Ratio, left: float) -> str:
    """The window against the static cache, after the longest context; left: bytes not read."""
    return (
        f"After {context:,} tokens, the {name} reads {scaled(left, 'B')} less a token than the "
        f"static cache. Measured against it: {shown(narrow)}."
    )


def of_context(
    shortest: int, longest: int, first: Ratio, last: Ratio, added: float, least: float
) -> str:
    """The static cache's time along the context.

    first, last: seconds a token after the shortest and the longest context, with intervals. added:
    bytes of keys and values. least: seconds to read them at the run's best bandwidth.
    """
    said = (
        f"From {shortest:,} to {longest:,} tokens of context, a token reads {scaled(added, 'B')} "
        f"more with the static cache, which takes {seconds(least)} at the run's best bandwidth. "
    )
    if last.low <= first.high and first.low <= last.high:
        return said + "The intervals of both measured times overlap: no change is measurable."
    grew = last.value - first.value
    return said + (
        "The contexts were timed one after another, so a change of the machine between them is a "
        f"part of the difference. Measured: {seconds(abs(grew))} {'more' if grew > 0 else 'less'}."
    )
