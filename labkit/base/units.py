"""Numbers for people: three digits, a prefix and a unit."""

from __future__ import annotations

import math
import reprlib

_PREFIXES = ("", "k", "M", "G", "T", "P")


def scaled(value: float, unit: str) -> str:
    """1.23e9 and "B/s" -> "1.23 GB/s". Prefixes are decimal, as vendors and papers use them."""
    if not math.isfinite(value):
        return f"unknown {unit}"
    step = 0
    while abs(value) >= 999.5 and step < len(_PREFIXES) - 1:
        value, step = value / 1000, step + 1
    return f"{value:.3g} {_PREFIXES[step]}{unit}"


def seconds(value: float) -> str:
    """0.00123 -> "1.23 ms", 1534 -> "1,534 s"."""
    if abs(value) >= 999.5:
        return f"{value:,.0f} s"
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if abs(value) * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def shown(value: object, most: int = 80) -> str:
    """What was given, for an error message: as Python writes it, in one line, cut where it is long.

    It takes no longer for a value that is huge.
    """
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = most
    try:
        text = short.repr(value)
    except ValueError:  # Python writes no number of more than some thousand digits
        return f"{type(value).__name__} of very many digits"
    return text if len(text) <= most else f"{text[: most - 1]}…"
