"""The ragged batch of rows: the input of every forward pass.

A row is a token, or an embedding, with its position and the cache slot of its sequence. Prefill is
many rows of one slot. Decode is one row of each slot. Verifying a draft is a few rows of one slot,
as a chain or as a tree. In-flight batching is any mix of these. A request plans its next rows as a
`Part`; a pass takes the parts of all requests together, as `Rows`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor


def depths(parents: Sequence[int]) -> list[int]:
    """How many rows lie above each row of a tree. parents: of each row; -1 for the root."""
    found: list[int] = []
    for row, parent in enumerate(parents):
        if not -1 <= parent < row or (parent == -1) != (row == 0):
            raise ValueError(f"row {row} of a tree cannot have row {parent} as its parent.")
        found.append(0 if parent < 0 else found[parent] + 1)
    return found


@dataclass(slots=True)
class Part:
    """The next rows of one request. They go to the end of its slot.

    slot: of the cache. start: the position of the first row. tokens: one a row. wanted: so many
    rows, counted from the last, get an answer: their logits, or the likeliest next tokens.

    parents: in a tree, the row of the part that each row follows, -1 for the first; () for a chain.
    guesses: all tokens but the first are a draft's; rows after a wrong guess need no answer.
    embeddings (rows, hidden): used in place of the tokens, whose numbers are then ignored. causal:
    a row sees the rows of the part up to itself; if False (an encoder, an image) it sees all rows
    of the part. streams (rows, hidden): filled with the rows' residual streams after the last
    layer.
    """

    slot: int
    start: int
    tokens: Sequence[int]
    wanted: int = 1
    parents: Sequence[int] = ()
    guesses: bool = False
    embeddings: Tensor | None = None
    causal: bool = True
    streams: Tensor | None = None


@dataclass(frozen=True)
class Span:
    """The rows of one slot in a pass: `count` rows, the first of which is row `first_row`.

    In the cache they lie one after another from `start` on. As a chain their positions are start,
    start + 1, ... With `parents` (the row of the span that each row follows, -1 for the first) they
    are a tree: a row's position is start plus its depth, and it sees only itself and the rows above
    it. `Cache.keep` then keeps one path. Rows that are not `causal` see the whole span.
    """

    slot: int
    start: int
    count: int
    first_row: int
    parents: tuple[int, ...] = ()
    causal: bool = True

    def path(self, row: int) -> list[int]:
        """The rows of the span that its row `row` sees, in order."""
        if not self.causal:
            return list(range(self.count))
        if not self.parents:
            return list(range(row + 1))
        found = [row]
        while (parent := self.parents[found[-1]]) >= 0:
            found.append(parent)
        return found[::-1]

    @property
    def end(self) -> int:
        """The slot's length after the pass."""
        return self.start + self.count

    @property
    def rows(self) -> slice:
        """Their indices among the rows of the pass."""
        return slice(self.first_row, self.first_row + self.count)


@dataclass(frozen=True)
class Rows:
    """Rows of a pass, grouped by slot.

    ids, at: each row's token and position. asked: indices of the wanted rows, ascending. spans: one
    a slot, in row order. embedded: (rows, their embeddings) for parts that have embeddings.

    The same as tensors, for decoders that compute with them: tokens (rows,), positions (rows,) and
    wanted (asked,), int64. They are made at the first use, because that is slow and a native pass
    needs none of them.
    """

    ids: list[int]
    at: list[int]
    asked: list[int]
    spans: tuple[Span, ...]
    device: torch.device | str = "cpu"
    embedded: tuple[tuple[slice, Tensor], ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _tensors(self) -> tuple[Tensor, ...]:
        whole = torch.tensor([*self.ids, *self.at, *self.asked], dtype=torch.int64)
        sizes = [len(self.ids), len(self.at), len(self.asked)]
        return torch.split(whole.to(self.device), sizes)

    @property
    def tokens(self) -> Tensor:
        """(rows,) int64."""
        return self._tensors[0]

    @property
    def positions(self) -> Tensor:
        """(rows,) int64."""
        return self._tensors[1]

    @property
    def wanted(self) -> Tensor:
        """(asked,) int64: indices of rows."""
        return self._tensors[2]

    @staticmethod
    def of(parts: Iterable[Part]) -> Rows:
        """The rows of several parts, one after another; ValueError for parts that do not fit."""
        tokens: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        spans: list[Span] = []
        embedded: list[tuple[slice, Tensor]] = []
        for part in parts:
            count, first = len(part.tokens), len(tokens)
            _check(part)
            parents = tuple(part.parents)
            span = Span(part.slot, part.start, count, first, parents, part.causal)
            spans.append(span)
            if part.embeddings is not None:
                embedded.append((span.rows, part.embeddings))
                tokens.extend([0] * count)
            else:
                tokens.extend(int(token) for token in part.tokens)
            below = depths(parents) if parents else range(count)
            positions.extend(part.start + depth for depth in below)
            wanted.extend(range(first + count - part.wanted, first + count))
        if len({span.slot for span in spans}) != len(spans):
            raise ValueError("a slot may appear only once in a pass.")
        return Rows(tokens, positions, wanted, tuple(spans), embedded=tuple(embedded))

    @staticmethod
    def prefill(
        tokens: Sequence[int], slot: int = 0, start: int = 0, all_logits: bool = False
    ) -> Rows:
        """Many rows of one slot; logits of the last row, or of all."""
        return Rows.of([Part(slot, start, tokens, len(tokens) if all_logits else 1)])

    @staticmethod
    def decode(next_tokens: Mapping[int, tuple[int, int]]) -> Rows:
        """One row of each slot, from {slot: (token, position)}."""
        return Rows.of(Part(slot, at, [token]) for slot, (token, at) in next_tokens.items())

    def to(self, device: torch.device | str) -> Rows:
        """The same rows with their tensors on `device`."""
        if torch.device(device) == torch.device(self.device):
            return self  # with the tensors that it has
        return replace(self, device=device)


def _check(part: Part) -> None:
    """ValueError for a part whose rows do not fit each other."""
    count = len(part.tokens)
    if count == 0:
        raise ValueError(f"slot {part.slot} has no tokens; a part needs at least one.")
    if not 0 <= part.wanted <= count:
        raise ValueError(f"{part.wanted} of {count} rows are wanted; allowed are 0 to {count}.")
    if part.parents and len(part.parents) != count:
        raise ValueError(f"{len(part.parents)} parents for {count} tokens.")
    if part.parents and not part.causal:
        raise ValueError("rows of a tree see only the rows above them: a tree is causal.")
    if part.embeddings is not None and part.embeddings.shape[0] != count:
        raise ValueError(f"{part.embeddings.shape[0]} embeddings for {count} rows.")
    if part.streams is not None and part.streams.shape[0] < count:
        raise ValueError(
            f"streams has room for {part.streams.shape[0]} rows; the part has {count}."
        )


def check_streams(parts: Sequence[Part], hidden: int) -> None:
    """ValueError for `streams` of a part that cannot take its rows, before the pass is run."""
    for part in parts:
        if part.streams is not None:
            count, room = len(part.tokens), tuple(part.streams.shape)
            if len(room) != 2 or room[0] < count or room[1] != hidden:
                raise ValueError(f"streams {room} for {count} rows of {hidden} numbers.")


def fill_streams(parts: Sequence[Part], rows: Rows, streams: Tensor) -> None:
    """Give each part that wants them its rows' streams, from those of all rows (rows, hidden)."""
    for part, span in zip(parts, rows.spans, strict=True):
        if part.streams is not None:
            part.streams[: span.count] = streams[span.rows]
