"""Which known name was meant, for an error message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 200  # characters that are compared: a huge name takes no longer


def nearest(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """The known names that are most like one that is not known, the nearest first; often none."""
    return difflib.get_close_matches(name[:_LONGEST], list(known), n=most)


def hint(near: Iterable[str]) -> str:
    """A sentence, to follow another one, that asks for the names meant; empty where there are none.

    near: names, or what is told of them.
    """
    meant = " or ".join(near)
    return f" Did you mean {meant}?" if meant else ""
