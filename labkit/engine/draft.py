"""What a draft is: a source of tokens that the target may accept or reject."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from labkit.model.config import ModelConfig


class Proposal(NamedTuple):
    """Tokens that may come next.

    probs (len(tokens), vocab): the distributions from which the tokens were drawn; None where
    nothing was drawn, so that a position's whole probability lies on its token. evidence: how much
    speaks for the first token, such as the length of a match; each further token adds one.
    parents: in a tree, the index of the token that each token follows, always an earlier one (-1:
    the context's last); () for a chain. A tree has no probs.
    """

    tokens: list[int]
    probs: Tensor | None = None
    evidence: int = 0
    parents: tuple[int, ...] = ()

    def cut(self, count: int) -> Proposal:
        """The proposal cut to its first `count` tokens."""
        if len(self.tokens) <= count:
            return self
        probs = None if self.probs is None else self.probs[:count]
        return Proposal(self.tokens[:count], probs, self.evidence, self.parents[:count])

    @property
    def row_parents(self) -> tuple[int, ...]:
        """Parents of the rows that verify a tree, as `Part.parents`; () for a chain.

        Row 0 is the context's last token, row n the n-th token of the proposal.
        """
        return (-1, *(parent + 1 for parent in self.parents)) if self.parents else ()

    def after(self, row: int, token: int) -> int | None:
        """The row of `token` directly after `row`; None where the proposal has no such row."""
        if not self.parents:
            return row + 1 if row < len(self.tokens) and self.tokens[row] == token else None
        for index, parent in enumerate(self.parents):
            if parent + 1 == row and self.tokens[index] == token:
                return index + 1
        return None

    def is_leaf(self, row: int) -> bool:
        """Whether no token of the proposal follows a row."""
        return row - 1 not in self.parents if self.parents else row == len(self.tokens)

    def walk(self, choose: Callable[[int], int | None]) -> tuple[list[int], list[int]]:
        """Walk down the tree from row 0; returns the rows reached and the token after each of them.

        choose: gives the token after a row; None ends the walk. The walk also ends with the first
        token that the proposal does not have after its row.
        """
        rows, tokens = [0], []
        while (token := choose(rows[-1])) is not None:
            tokens.append(token)
            row = self.after(rows[-1], token)
            if row is None:
                break
            rows.append(row)
        return rows, tokens

    def rows_of(self, came: Iterable[int]) -> list[int]:
        """Row 0, and the row of each token that came, up to the first that was not proposed."""
        rest = iter(came)
        return self.walk(lambda _: next(rest, None))[0]

    def outcomes(self, came: Sequence[int]) -> list[bool]:
        """For each token that came, whether it was proposed; up to the first miss or the end."""
        rows = self.rows_of(came)
        hits = len(rows) - 1
        missed = hits < len(came) and not self.is_leaf(rows[-1])
        return [True] * hits + [False] * missed


NOTHING = Proposal([])


class Draft(Protocol):
    """A source of proposals for one request at a time; subclasses override what they need.

    `context` is always the prompt and the output so far. Within a request it only grows, so that a
    draft may remember how much it has read. It is the request's own list: read it only.
    """

    name: str

    def check(self, config: ModelConfig) -> None:
        """Raise ParameterError where this draft cannot serve a target of this config."""
        return None

    def begin(self, context: Sequence[int], most: int) -> None:
        """A new request: its prompt, and the most tokens that the context can have."""
        return None

    def propose(self, context: Sequence[int], limit: int) -> Proposal:
        """Up to `limit` (at least 1) tokens that may follow; NOTHING where there are none."""
        ...

    def end(self, context: Sequence[int]) -> None:
        """The request is over; this is all of its text."""
        return None


@runtime_checkable
class FeatureDraft(Protocol):
    """A draft that also reads the target's residual streams, as a learned head does.

    EAGLE (Li et al., 2401.15077) predicts the next feature from [feature; embedding of the next
    token]. The target must be `Traced`, as the plain and the fused decoder are.
    """

    def watch(self, streams: Tensor) -> None:
        """The streams of the request that has just begun, (most, hidden): row i of token i.

        They are filled as the target reads: at every `propose` all tokens of the context but the
        last have theirs.
        """
