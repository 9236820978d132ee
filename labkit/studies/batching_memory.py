"""How much of the memory that requests hold also holds tokens: from the records of passes.

A contiguous cache gives every slot the memory of the longest request. A paged cache gives it blocks
as it grows, so that only the last block of a request is filled in part (Kwon et al., 2309.06180).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from labkit.engine.records import PassRecord
from labkit.model.cache.paged import BLOCK_SIZE


class Held(NamedTuple):
    """When a pass ended: positions with a token, positions of held blocks, and the requests that
    hold them. seconds: how long the pass took."""

    seconds: float
    tokens: int
    positions: int
    requests: int


def held(records: Sequence[PassRecord]) -> list[Held]:
    """What the requests held at the end of each pass.

    For an engine without a prefix cache and without drafts: a request's tokens are the rows that it
    has sent, since it last lost its slot.
    """
    last = {one.request: at for at, record in enumerate(records) for one in record.rows}
    tokens: Counter[int] = Counter()
    found: list[Held] = []
    for at, record in enumerate(records):
        for number in record.preempted:
            del tokens[number]
        for one in record.rows:
            tokens[one.request] += one.prefill + one.decode
        positions = record.blocks_held * BLOCK_SIZE
        found.append(Held(record.seconds, tokens.total(), positions, len(tokens)))
        for number in [number for number in tokens if last[number] == at]:
            del tokens[number]
    return found


class Memory(NamedTuple):
    """Positions over a run, the mean over its time: with a token, in held blocks, and what slots of
    the longest request's length would hold. most: the most in held blocks at once."""

    tokens: float
    paged: float
    contiguous: float
    most: int

    @property
    def of_paged(self) -> float:
        """The share of the held blocks' positions that hold a token."""
        return self.tokens / self.paged

    @property
    def of_contiguous(self) -> float:
        """The same share of a contiguous cache."""
        return self.tokens / self.contiguous


def memory(records: Sequence[PassRecord], slots: int, longest: int) -> Memory:
    """What a run held. longest: positions of its longest request."""
    found = held(records)
    whole = sum(one.seconds for one in found)
    return Memory(
        sum(one.seconds * one.tokens for one in found) / whole,
        sum(one.seconds * one.positions for one in found) / whole,
        float(slots * longest),
        max(one.positions for one in found),
    )
