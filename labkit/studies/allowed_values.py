"""What a parameter may be: in words, and as a test. torch is not imported here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

_MOST = 1_000_000  # of anything that is counted


class Allowed(NamedTuple):
    """What a value may be: in words, and as a test, which takes a value of any type."""

    words: str
    holds: Callable[[Any], bool]


def count(least: int, most: int = _MOST) -> Allowed:
    """A whole number."""
    return Allowed(
        f"whole numbers from {least:,} to {most:,}",
        lambda value: type(value) is int and least <= value <= most,
    )


def above(least: float, most: float) -> Allowed:
    """A number above `least`, up to `most`."""

    def holds(value: Any) -> bool:
        return type(value) in (int, float) and least < value <= most

    return Allowed(f"numbers above {least:g}, up to {most:g}", holds)


def one_of(*known: Any) -> Allowed:
    """One of some values."""
    kinds = [(type(one), one) for one in known]
    return Allowed(", ".join(map(str, known)), lambda value: (type(value), value) in kinds)


def some(each: Allowed) -> Allowed:
    """A list with at least one value, none of them twice."""

    def holds(values: Any) -> bool:
        if not isinstance(values, list | tuple) or not values or not all(map(each.holds, values)):
            return False
        return len(set(values)) == len(values)

    return Allowed(f"a list, not empty and without repetition, of {each.words}", holds)


TRUTH = Allowed("true, false", lambda value: type(value) is bool)
TEXT = Allowed("text", lambda value: isinstance(value, str))
