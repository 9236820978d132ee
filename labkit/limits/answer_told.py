"""The calculator's answer in sentences; its page says the same (templates/calculator_told.js)."""

from __future__ import annotations

import math

from labkit.base.units import scaled
from labkit.limits.calculator import cache_note
from labkit.limits.cost import Cost
from labkit.limits.hardware import Hardware
from labkit.limits.question import Answer, Question


def number(value: float) -> str:
    """1234.5 -> 1,234; 12.345 -> 12.3."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def memory_told(found: Answer, hardware: Hardware, asked: Question) -> str:
    """What must be held, and whether the machine's memory holds it."""
    parts = f"weights {scaled(found.weights, 'B')} + KV cache {scaled(found.kv, 'B')}"
    need = f"{parts} = {scaled(found.weights + found.kv, 'B')}"
    if not hardware.capacity:
        return f"{need}; the size of the machine's memory is not known."
    of, at = f"{need} of {scaled(hardware.capacity, 'B')}", f"at a context of {asked.context:,}"
    if found.fits:
        return f"{of}: it fits, up to a batch of {found.largest_batch:,} {at}."
    if found.largest_batch:
        return f"{of}: it does not fit; a batch of {found.largest_batch:,} does {at}."
    return f"{of}: it does not fit, at no batch."


def batch_told(hardware: Hardware, step: Cost, batch: float, context: int = 0) -> str:
    """From which batch on decoding is compute bound, or why no batch is.

    step: of the batch that is asked for. context: of each sequence; 0 where none is counted.
    """
    at, products = f" at a context of {context:,}" if context else "", step.dtype
    if note := cache_note(step, hardware):
        return f"in {step.dtype}, {note}."
    known = hardware.multiplied(step.dtype)
    if known is None:
        return f"no rate of products in {step.dtype} is known: the limits count reading alone."
    if known != step.dtype:
        products += f", at the rate of {known} products"
    if math.isinf(batch):
        return (
            f"decoding{at} is memory bound at every batch ({products}): to read the KV cache of a "
            "sequence takes longer than to compute its row."
        )
    return (
        f"decoding{at} is compute bound, not memory bound, from a batch of {number(batch)} on "
        f"({products})."
    )


def price_told(found: Answer, price: float) -> str:
    """What a million tokens cost at the limit, so at least; empty where there is no limit."""
    if not found.fits or not (found.decode.limit.seconds and found.prefill.limit.seconds):
        return ""
    return (
        f"a million output tokens cost at least {number(found.decode.million(price))}, a million "
        f"prompt tokens at least {number(found.prefill.million(price))}, at {number(price)} an "
        "hour."
    )
