"""A suffix index: find the longest end of the context that occurred before; draft what followed it.

A suffix automaton (Blumer et al. 1985) contains the prompt, the output and the session's earlier
outputs. It adds a token in amortized constant time and always knows the longest repeated suffix.
SuffixDecoding (Oliaro et al., 2411.04975) drafts from suffix trees over the same texts.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from labkit.engine.draft import NOTHING, Draft, Proposal
from labkit.errors import ParameterError

_CLIMB = 24  # suffixes whose latest end is updated for each token


class SuffixAutomaton:
    """All substrings of a growing sequence of tokens.

    A state represents all substrings that end at the same positions. `link` leads to their longest
    suffix that also ends at other positions. Numbers below 0 separate texts: each occurs only once,
    so no match crosses it.
    """

    def __init__(self) -> None:
        # Arrays, not lists: each number of a list is an object, and a cache miss after a pass.
        self.tokens = array("q")
        self._next: list[dict[int, int]] = [{}]
        self._link = array("q", [-1])
        self._length = array("q", [0])
        # Where the state's substrings ended: the index of the token that follows.
        self._end = array("q", [0])
        self._last = 0

    def __len__(self) -> int:
        return len(self.tokens)

    def match(self) -> tuple[int, int]:
        """(length, end) of the longest suffix that occurs earlier too; (0, 0) where none does.

        tokens[end:] is how the text went on there. It is the latest occurrence, except that very
        short suffixes of very repetitive texts may give an earlier one.
        """
        state = self._link[self._last]
        if state <= 0:
            return 0, 0
        return self._length[state], self._end[state]

    def append(self, token: int) -> None:
        """Add a token; it may be a new separator."""
        self._settle()
        self.tokens.append(token)
        new = self._state(self._length[self._last] + 1, {})
        at = self._last
        while at != -1 and token not in self._next[at]:
            self._next[at][token] = new
            at = self._link[at]
        self._link[new] = 0 if at == -1 else self._reach(at, token)
        self._last = new

    def _settle(self) -> None:
        """Record for the text's suffixes that they end here; the next token will follow them."""
        end, state = len(self.tokens), self._last
        for _ in range(_CLIMB):
            if state <= 0:
                return
            self._end[state] = end
            state = self._link[state]

    def _state(self, length: int, follows: dict[int, int]) -> int:
        self._next.append(follows)
        self._link.append(-1)
        self._length.append(length)
        self._end.append(len(self.tokens))
        return len(self._length) - 1

    def _reach(self, at: int, token: int) -> int:
        """The state of the longest known suffix. If longer ones share it, it gets its own first."""
        found = self._next[at][token]
        if self._length[at] + 1 == self._length[found]:
            return found
        split = self._state(self._length[at] + 1, dict(self._next[found]))
        self._end[split], self._link[split] = self._end[found], self._link[found]
        self._link[found] = split
        while at != -1 and self._next[at].get(token) == found:
            self._next[at][token] = split
            at = self._link[at]
        return split


class SuffixIndex(Draft):
    """Continues the longest match of the context's end in all texts of the session.

    capacity: most tokens to keep; where a request would exceed it, the index starts empty again.
    shortest: shorter matches propose nothing. To draft from one request alone, make a new index
    for it.
    """

    def __init__(self, capacity: int = 65536, shortest: int = 1) -> None:
        if capacity < 1 or shortest < 1:
            raise ParameterError(
                f"capacity {capacity} and shortest match {shortest} must be at least 1."
            )
        self.name = "suffix index"
        self.capacity, self.shortest = capacity, shortest
        self.index = SuffixAutomaton()
        self._read = self._texts = 0

    def begin(self, context: Sequence[int], most: int) -> None:
        if len(self.index) + most > self.capacity:
            self.index = SuffixAutomaton()
        if len(self.index):
            self._texts += 1
            self.index.append(-self._texts)
        self._read = 0
        self._index(context)

    def propose(self, context: Sequence[int], limit: int) -> Proposal:
        self._index(context)
        length, end = self.index.match()
        if length < self.shortest:
            return NOTHING
        tokens = self.index.tokens[end : end + limit].tolist()
        if min(tokens) < 0:  # where an earlier text ended
            tokens = tokens[: next(i for i, token in enumerate(tokens) if token < 0)]
        return Proposal(tokens, evidence=length)

    def end(self, context: Sequence[int]) -> None:
        self._index(context)

    def _index(self, context: Sequence[int]) -> None:
        append = self.index.append
        for token in context[self._read :]:
            append(token)
        self._read = len(context)
