"""The ragged batch of rows: the one input of every forward pass.

A row is a token with its position and the cache slot of its sequence. Prefill is many rows of one
slot, decode is one row of each slot, verifying a draft is a few rows of one slot, in-flight
batching is any mix of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Span:
    """The rows of one slot: `count` rows from `first_row`, at positions `start, start + 1, ...`."""

    slot: int
    start: int
    count: int
    first_row: int

    @property
    def end(self) -> int:
        """Length of the slot once these rows are in the cache."""
        return self.start + self.count

    @property
    def rows(self) -> slice:
        return slice(self.first_row, self.first_row + self.count)


@dataclass(frozen=True)
class Rows:
    """Rows of a pass, grouped by slot.

    tokens (rows,) int64; positions (rows,) int64; wanted (n,) int64: rows whose logits are asked
    for, in order; spans: one a slot, in row order.
    """

    tokens: Tensor
    positions: Tensor
    wanted: Tensor
    spans: tuple[Span, ...]

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @staticmethod
    def of(parts: Iterable[tuple[int, int, Sequence[int], bool]]) -> Rows:
        """Build from (slot, start position, tokens, all rows' logits wanted or only the last)."""
        tokens: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        spans: list[Span] = []
        for slot, start, given, all_logits in parts:
            if len(given) == 0:
                raise ValueError(f"slot {slot} has no tokens; a span needs at least one.")
            spans.append(Span(slot, start, len(given), len(tokens)))
            first = len(tokens) if all_logits else len(tokens) + len(given) - 1
            tokens.extend(int(token) for token in given)
            positions.extend(range(start, start + len(given)))
            wanted.extend(range(first, len(tokens)))
        if len({span.slot for span in spans}) != len(spans):
            raise ValueError("a slot may appear only once in a pass.")
        ids, at, ask = (
            torch.tensor(part, dtype=torch.int64) for part in (tokens, positions, wanted)
        )
        return Rows(ids, at, ask, tuple(spans))

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
        tokens, positions, wanted = (
            tensor.to(device) for tensor in (self.tokens, self.positions, self.wanted)
        )
        return Rows(tokens, positions, wanted, self.spans)
