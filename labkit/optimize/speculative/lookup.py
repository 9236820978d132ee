"""Prompt lookup: find the last few tokens earlier in the context, and draft what followed there.

Saxena 2023 (prompt-lookup-decoding). The longest n-gram is tried first. Of several occurrences the
latest is taken; assisted generation in transformers takes the first.
"""

from __future__ import annotations

from collections.abc import Sequence

from labkit.engine.draft import NOTHING, Draft, Proposal
from labkit.errors import ParameterError

_FURTHEST = 64  # matches are not measured beyond this length


def match_length(context: Sequence[int], end: int, most: int = _FURTHEST) -> int:
    """How many tokens before `end` equal those before the context's own end."""
    length, last = 0, len(context)
    most = min(most, end)
    while length < most and context[end - 1 - length] == context[last - 1 - length]:
        length += 1
    return length


class PromptLookup(Draft):
    """N-grams of prompt and output, from `longest` tokens down to `shortest`.

    It stores where every n-gram occurred last. So a token costs a few dictionary entries, and a
    proposal a few lookups, however long the context is.
    """

    def __init__(self, longest: int = 3, shortest: int = 1) -> None:
        if not 1 <= shortest <= longest:
            raise ParameterError(
                f"n-grams from {shortest} to {longest}: allowed is 1 <= shortest <= longest."
            )
        self.name = f"prompt lookup {longest}"
        self._sizes = range(longest, shortest - 1, -1)
        self._ends: dict[tuple[int, ...], int] = {}  # n-gram -> where its continuation starts
        self._read = 0

    def begin(self, context: Sequence[int], most: int) -> None:
        self._ends, self._read = {}, 0

    def propose(self, context: Sequence[int], limit: int) -> Proposal:
        self._index(context)
        for size in self._sizes:
            end = self._ends.get(tuple(context[-size:]))
            if end is not None and size <= len(context):
                tokens = list(context[end : end + limit])
                return Proposal(tokens, evidence=match_length(context, end))
        return NOTHING

    def _index(self, context: Sequence[int]) -> None:
        """Store all n-grams but the one at the very end, which no token follows yet."""
        ends, sizes = self._ends, self._sizes
        for end in range(max(self._read, 1), len(context)):
            for size in sizes:
                if size <= end:
                    ends[tuple(context[end - size : end])] = end
        self._read = len(context)
