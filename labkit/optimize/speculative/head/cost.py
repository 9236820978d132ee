"""What a head costs, in passes of one row of the target."""

from __future__ import annotations

from typing import NamedTuple


class HeadCost(NamedTuple):
    """first: the first token of a draft. further: each further one, for which the head's weights
    are in the processor's caches. read: each token read besides."""

    first: float = 0.0
    further: float = 0.0
    read: float = 0.0

    def of(self, asked: tuple[int, int, int]) -> float:
        """The cost of so many first tokens, further ones, and tokens read besides."""
        first, further, read = asked
        return first * self.first + further * self.further + read * self.read
