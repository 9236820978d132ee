"""What a head costs, in passes of one row of the target."""

from __future__ import annotations

from typing import NamedTuple


class HeadCost(NamedTuple):
    """first: cost of a draft's first token. further: of each later one, when the head's weights are
    already in the processor's caches. read: of each other token that the head reads."""

    first: float = 0.0
    further: float = 0.0
    read: float = 0.0

    def of(self, asked: tuple[int, int, int]) -> float:
        """The cost of `asked`: numbers of first tokens, of further tokens, of other tokens read."""
        first, further, read = asked
        return first * self.first + further * self.further + read * self.read
