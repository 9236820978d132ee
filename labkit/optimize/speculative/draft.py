"""What a draft is: a source of tokens that the target may accept, and never has to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from labkit.model.config import ModelConfig


class Proposal(NamedTuple):
    """Tokens that may come next.

    probs: draft_probs (len(tokens), vocab) the tokens were drawn from; None where they follow from
    the context alone, so that all of a position's probability lies on its token. evidence: how
    much speaks for the first token, such as the length of a match; each further token adds one.
    parents: in a tree, of each token the one that it follows, always an earlier one (-1: the
    context's last); a chain has none. A tree has no probs.
    """

    tokens: list[int]
    probs: Tensor | None = None
    evidence: int = 0
    parents: tuple[int, ...] = ()

    def cut(self, count: int) -> Proposal:
        """Its first `count` tokens."""
        if len(self.tokens) <= count:
            return self
        probs = None if self.probs is None else self.probs[:count]
        return Proposal(self.tokens[:count], probs, self.evidence, self.parents[:count])

    def after(self, row: int, token: int) -> int | None:
        """The row of a token that follows a row; None where it was not foreseen there. Row 0 is
        the context's last token, row n the proposal's n-th."""
        if not self.parents:
            return row + 1 if row < len(self.tokens) and self.tokens[row] == token else None
        for place, parent in enumerate(self.parents):
            if parent + 1 == row and self.tokens[place] == token:
                return place + 1
        return None

    def ends(self, row: int) -> bool:
        """Whether nothing was foreseen after a row."""
        return row - 1 not in self.parents if self.parents else row == len(self.tokens)

    def rows_of(self, came: Iterable[int]) -> list[int]:
        """Row 0 and those of the tokens that came, as far as they were foreseen."""
        rows = [0]
        for token in came:
            row = self.after(rows[-1], token)
            if row is None:
                break
            rows.append(row)
        return rows

    def outcomes(self, came: Sequence[int]) -> list[bool]:
        """Of each place that was foreseen, whether the token that came was, to the first no."""
        rows = self.rows_of(came)
        hits = len(rows) - 1
        missed = hits < len(came) and not self.ends(rows[-1])
        return [True] * hits + [False] * missed


NOTHING = Proposal([])


class Draft(Protocol):
    """A source of drafts for one sequence at a time; subclasses replace what they need.

    `context` is always the prompt and the output so far. It only grows within a request, so a
    draft may remember how much of it it has read.
    """

    name: str

    def check(self, config: ModelConfig) -> None:
        """Raise ParameterError where this draft cannot serve a target of this config."""
        return None

    def begin(self, context: Sequence[int], most: int) -> None:
        """A new request: its prompt, and the most tokens that the context can come to."""
        return None

    def propose(self, context: Sequence[int], limit: int) -> Proposal:
        """Up to `limit` (at least 1) tokens that may follow; NOTHING where it has no idea."""
        ...

    def end(self, context: Sequence[int]) -> None:
        """The request is over; this is all of it."""
        return None


@runtime_checkable
class FeatureDraft(Protocol):
    """A draft that reads the target's hidden states too: the place of a learned head.

    EAGLE (Li et al., 2401.15077) predicts the feature that follows from [feature; embedding of the
    next token]. The target must have `traced`, as the plain and the fused decoder do.
    """

    def watch(self, streams: Tensor) -> None:
        """Of the request that has just begun: (most, hidden), row i the residual stream of the
        context's token i.

        Filled as the target reads: at every `propose` all tokens of the context but the last have
        theirs.
        """
