"""The ragged batch of rows: the one input of every forward pass.

A row is a token with its position and the cache slot of its sequence. Prefill is many rows of one
slot, decode is one row of each slot, verifying a draft is a few rows of one slot, as a chain or as
a tree, in-flight batching is any mix of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor


def depths(parents: Sequence[int]) -> list[int]:
    """How many rows lie above each row of a tree, from each row's parent (-1: none)."""
    found: list[int] = []
    for row, parent in enumerate(parents):
        if not -1 <= parent < row or (parent == -1) != (row == 0):
            raise ValueError(f"row {row} of a tree cannot have row {parent} as its parent.")
        found.append(0 if parent < 0 else found[parent] + 1)
    return found


@dataclass(frozen=True)
class Span:
    """The rows of one slot: `count` rows from `first_row`, which the cache holds from `start` on.

    As a chain they are at positions start, start + 1, ... With `parents` (of each row the row of
    the span that it follows; -1 of the first) they are a tree: a row's position is start and its
    depth, and of the span it sees the rows above it and itself. `KVCache.keep` takes one path.
    """

    slot: int
    start: int
    count: int
    first_row: int
    parents: tuple[int, ...] = ()

    def path(self, row: int) -> list[int]:
        """The rows of the span that row `row` of it sees, in order."""
        if not self.parents:
            return list(range(row + 1))
        found = [row]
        while (parent := self.parents[found[-1]]) >= 0:
            found.append(parent)
        return found[::-1]

    @property
    def end(self) -> int:
        """Length of the slot once these rows are in the cache."""
        return self.start + self.count

    @property
    def rows(self) -> slice:
        return slice(self.first_row, self.first_row + self.count)


# (slot, start position, tokens, all rows' logits wanted), and each row's parent where it is a tree.
Part: TypeAlias = (
    tuple[int, int, Sequence[int], bool] | tuple[int, int, Sequence[int], bool, Sequence[int]]
)


@dataclass(frozen=True)
class Rows:
    """Rows of a pass, grouped by slot.

    ids, at: each row's token and position; asked: the rows whose logits are asked for, in order;
    spans: one a slot, in row order. Whoever computes with tensors takes them as such (int64):
    tokens (rows,), positions (rows,), wanted (asked,). They are made when first asked for, since
    that takes longer than all else here, and a native pass needs none.
    """

    ids: list[int]
    at: list[int]
    asked: list[int]
    spans: tuple[Span, ...]
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _tensors(self) -> tuple[Tensor, ...]:
        whole = torch.tensor([*self.ids, *self.at, *self.asked], dtype=torch.int64)
        return whole.to(self.device).split((len(self.ids), len(self.at), len(self.asked)))

    @property
    def tokens(self) -> Tensor:
        return self._tensors[0]

    @property
    def positions(self) -> Tensor:
        return self._tensors[1]

    @property
    def wanted(self) -> Tensor:
        return self._tensors[2]

    @staticmethod
    def of(parts: Iterable[Part]) -> Rows:
        """Build from (slot, start position, tokens, all rows' logits wanted or only the last).

        A fifth, each row's parent in the part, makes a tree of it.
        """
        tokens: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        spans: list[Span] = []
        for slot, start, given, all_logits, *tree in parts:
            if len(given) == 0:
                raise ValueError(f"slot {slot} has no tokens; a span needs at least one.")
            parents = tuple(tree[0]) if tree else ()
            if parents and len(parents) != len(given):
                raise ValueError(f"{len(parents)} parents for {len(given)} tokens.")
            below = depths(parents) if parents else range(len(given))
            spans.append(Span(slot, start, len(given), len(tokens), parents))
            first = len(tokens) if all_logits else len(tokens) + len(given) - 1
            tokens.extend(int(token) for token in given)
            positions.extend(start + depth for depth in below)
            wanted.extend(range(first, len(tokens)))
        if len({span.slot for span in spans}) != len(spans):
            raise ValueError("a slot may appear only once in a pass.")
        return Rows(tokens, positions, wanted, tuple(spans))

    @staticmethod
    def prefill(
        tokens: Sequence[int], slot: int = 0, start: int = 0, all_logits: bool = False
    ) -> Rows:
        """Many rows of one slot; logits of the last row, or of all."""
        return Rows.of([(slot, start, tokens, all_logits)])

    @staticmethod
    def decode(next_tokens: Mapping[int, tuple[int, int]]) -> Rows:
        """One row of each slot, from {slot: (token, position)}."""
        return Rows.of((slot, at, [token], True) for slot, (token, at) in next_tokens.items())

    def to(self, device: torch.device | str) -> Rows:
        """The same rows with their tensors on `device`."""
        if torch.device(device) == torch.device(self.device):
            return self  # not made a second time
        return replace(self, device=device)
