"""Prompt lookup: what followed these few tokens when they last stood in the context.

Saxena 2023 (prompt-lookup-decoding); as assisted generation has it, but the longest n-gram first
and the latest place rather than the first one.
"""

from __future__ import annotations

from collections.abc import Sequence

from labkit.errors import ParameterError
from labkit.optimize.speculative.draft import NOTHING, Draft, Proposal

_FURTHEST = 64  # how far back a match is followed to say how long it is


def match_length(context: Sequence[int], end: int, most: int = _FURTHEST) -> int:
    """How many tokens before `end` equal those before the context's own end."""
    length, last = 0, len(context)
    most = min(most, end)
    while length < most and context[end - 1 - length] == context[last - 1 - length]:
        length += 1
    return length


class PromptLookup(Draft):
    """N-grams of prompt and output, from `longest` tokens down to `shortest`.

    Keeps the latest place of every n-gram, so that a token costs a few dictionary entries and a
    proposal a few look-ups, however long the context.
    """

    def __init__(self, longest: int = 3, shortest: int = 1) -> None:
        if not 1 <= shortest <= longest:
            raise ParameterError(
                f"n-grams from {shortest} to {longest}: allowed is 1 <= shortest <= longest."
            )
        self.name = f"prompt lookup {longest}"
        self._sizes = range(longest, shortest - 1, -1)
        self._places: dict[tuple[int, ...], int] = {}  # n-gram -> where its continuation starts
        self._read = 0

    def begin(self, context: Sequence[int], most: int) -> None:
        self._places, self._read = {}, 0

    def propose(self, context: Sequence[int], limit: int) -> Proposal:
        self._index(context)
        for size in self._sizes:
            place = self._places.get(tuple(context[-size:]))
            if place is not None and size <= len(context):
                tokens = list(context[place : place + limit])
                return Proposal(tokens, evidence=match_length(context, place))
        return NOTHING

    def _index(self, context: Sequence[int]) -> None:
        """Enter all n-grams that a token follows: never the one at the very end."""
        places, sizes = self._places, self._sizes
        for end in range(max(self._read, 1), len(context)):
            for size in sizes:
                if size <= end:
                    places[tuple(context[end - size : end])] = end
        self._read = len(context)
