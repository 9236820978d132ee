"""A cache whose slots take blocks as they grow, and share those that hold the same tokens.

A slot holds no more memory than its tokens fill, up to a part of a block. Two slots may point to
one block: a fork, or a prefix that both prompts begin with. A slot copies a shared block before it
writes to it (Kwon et al., 2309.06180).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from labkit.model.cache.blocks import Blocks, NoBlocks
from labkit.model.cache.protocol import CacheError, Store
from labkit.model.cache.table import Cache
from labkit.model.rows import Rows

BLOCK_SIZE = 16  # positions of a block: the lanes that the fused kernel reads side by side


class BlockStore(Store, Protocol):
    """A store whose keys and values lie in numbered blocks. Only `PagedCache` calls it.

    blocks: how many there are. layout: tells the bytes of its blocks from those of any store that
    could not read them.
    """

    @property
    def blocks(self) -> int: ...

    @property
    def layout(self) -> str: ...

    def point(self, slot: int, index: int, block: int) -> None:
        """Let positions index * 16 and up of a slot lie in a block."""

    def copy_block(self, source: int, target: int) -> None:
        """Copy the contents of a block to another, in all layers."""

    @property
    def block_nbytes(self) -> int:
        """Bytes of a block, in all layers."""

    def read_block(self, block: int) -> bytes:
        """The contents of a block, in all layers."""

    def read_block_into(self, block: int, target: bytearray) -> None:
        """The same into memory that is there already: fresh memory takes longer than the copy."""

    def write_block(self, block: int, content: bytes) -> None:
        """Set the contents of a block to what `read_block` of the same layout gave."""


class PagedCache(Cache):
    """`slots` sequences whose positions lie in blocks of 16.

    book: who holds which block. A slot's table has as many blocks as its length fills, and no more.
    """

    store: BlockStore
    block_size = BLOCK_SIZE

    def __init__(self, store: BlockStore, slots: int) -> None:
        super().__init__(store, slots)
        self.book = Blocks(store.blocks)
        self._tables: list[list[int]] = [[] for _ in range(slots)]

    @property
    def reclaim(self) -> Callable[[int], int] | None:
        """As Blocks.reclaim. A prefix cache sets it."""
        return self.book.reclaim

    @reclaim.setter
    def reclaim(self, reclaim: Callable[[int], int] | None) -> None:
        self.book.reclaim = reclaim

    @property
    def room(self) -> int:
        """How many blocks can still be had: the free ones, and those that can be reclaimed."""
        return self.book.room

    @property
    def tokens_held(self) -> int:
        """Positions of held blocks that hold a token. A shared block counts once."""
        filled: dict[int, int] = {}
        for length, table in zip(self._lengths, self._tables, strict=True):
            for index, block in enumerate(table):
                here = min(BLOCK_SIZE, length - index * BLOCK_SIZE)
                filled[block] = max(here, filled.get(block, 0))
        return sum(filled.values())

    @property
    def positions_held(self) -> int:
        """Positions of held blocks, with or without a token: the memory that slots take."""
        return self.book.held * BLOCK_SIZE

    def blocks(self, slot: int) -> tuple[int, ...]:
        """The blocks of a slot, in the order of its positions."""
        self._check_slot(slot)
        return tuple(self._tables[slot])

    def needed(self, slot: int, count: int) -> int:
        """How many blocks `count` more rows of a slot take: new ones, and a copy of a shared one
        that they begin in."""
        length, table = self.length(slot), self._tables[slot]
        new = -(-(length + count) // BLOCK_SIZE) - len(table)
        return new + (length % BLOCK_SIZE > 0 and not self.book.sole(table[-1]))

    def takes(self, slot: int, count: int, tree: bool = False) -> bool:
        return super().takes(slot, count, tree) and self.needed(slot, count) <= self.room

    def reserve(self, rows: Rows) -> None:
        """As Cache.reserve; raises NoBlocks, a CacheError, where there is no room now."""
        for span in rows.spans:
            self._check(span)
        self._make_room([(span.slot, span.count) for span in rows.spans])
        for span in rows.spans:
            self._lengths[span.slot] = span.end

    def extend(self, slot: int, count: int) -> None:
        """As Cache.extend; raises NoBlocks, a CacheError, where there is no room now."""
        length = self._extended(slot, count)
        self._make_room([(slot, count)])
        self._lengths[slot] = length

    def truncate(self, slot: int, length: int) -> None:
        """Drop everything from position `length` on, and release the blocks behind it."""
        super().truncate(slot, length)
        table = self._tables[slot]
        while len(table) * BLOCK_SIZE >= length + BLOCK_SIZE:
            self.book.release(table.pop())  # the last first: a prefix is the last to be forgotten

    def release(self, slot: int) -> None:
        """Empty a slot: the same as truncate(slot, 0)."""
        self.truncate(slot, 0)

    def keep(self, slot: int, start: int, rows: Sequence[int]) -> None:
        """As Cache.keep. Raises NoBlocks where a shared block must be copied and none can be had;
        never for the rows of the last pass, which lie in blocks of the slot's own."""
        self._check_kept(slot, start, rows)
        moved = [start + to for to, row in enumerate(rows) if to != row]
        self._own(slot, {position // BLOCK_SIZE for position in moved})
        super().keep(slot, start, rows)

    def fork(self, slot: int) -> int:
        """Let a free slot share all blocks of a slot, and return its number. Nothing is copied
        until one of them writes."""
        copy = super().fork(slot)
        for index, block in enumerate(self._tables[slot]):
            self.book.hold(block)
            self._append(copy, index, block)
        return copy

    def adopt(self, slot: int, blocks: Sequence[int], length: int) -> None:
        """Let an empty slot begin with blocks that hold its first `length` tokens: whole blocks,
        held by other slots or cached. CacheError, and nothing is changed, for any others."""
        if self.length(slot) != 0:
            raise CacheError(f"slot {slot} holds {self.length(slot)} tokens: adopt needs none.")
        if length != len(blocks) * BLOCK_SIZE or len(set(blocks)) != len(blocks):
            raise CacheError(
                f"{length} tokens in blocks {list(blocks)}: whole blocks of {BLOCK_SIZE}, each "
                "once, are adopted."
            )
        capacity = self.store.capacity
        if capacity is not None and length > capacity:
            raise CacheError(f"slot {slot} has room for {capacity} tokens; {length} given.")
        for block in blocks:
            if self.book.count(block) == 0 and not self.book.published(block):
                raise CacheError(f"block {block} is free and holds nothing: it is not adopted.")
        for index, block in enumerate(blocks):
            self.book.hold(block)
            self._append(slot, index, block)
        self._lengths[slot] = length

    def replace(self, slot: int, index: int, block: int) -> None:
        """Let a slot's whole block lie in another one, which holds the same keys and values."""
        if not 0 <= index < self.length(slot) // BLOCK_SIZE:
            raise CacheError(f"slot {slot} has no whole block {index} that could be replaced.")
        self.book.hold(block)
        self._set(slot, index, block)

    def check(self, others: Iterable[int] = ()) -> None:
        """CacheError that names the first fault: of the blocks, or of a table.

        others: blocks that are held beside the tables, once for each time.
        """
        self.book.check()
        counts = [0] * self.book.total
        for slot, table in enumerate(self._tables):
            if len(table) != -(-self._lengths[slot] // BLOCK_SIZE):
                raise CacheError(f"slot {slot}: {self._lengths[slot]} tokens, blocks {table}.")
            for block in table:
                counts[block] += 1
        for block in others:
            counts[block] += 1
        for block, count in enumerate(counts):
            if count != self.book.count(block):
                raise CacheError(
                    f"block {block} has count {self.book.count(block)}; {count} tables point to it."
                )

    def _make_room(self, wants: Sequence[tuple[int, int]]) -> None:
        """Blocks for more rows of slots, (slot, count) each; NoBlocks, and no change, otherwise."""
        needed = sum(self.needed(slot, count) for slot, count in wants)
        if needed > self.room:
            raise NoBlocks(
                f"{needed} blocks are needed, {self.room} of {self.book.total} can be had: wait "
                "until a request ends, or make the cache larger."
            )
        self.book.make_free(needed)  # what may fail comes before any table changes
        for slot, count in wants if needed else ():
            length, table = self._lengths[slot], self._tables[slot]
            if length % BLOCK_SIZE:
                self._own(slot, {len(table) - 1})
            new = -(-(length + count) // BLOCK_SIZE) - len(table)
            for block in self.book.allocate(new, table[-1] if table else None):
                self._append(slot, len(table), block)

    def _own(self, slot: int, indices: Iterable[int]) -> None:
        """Copy those of a slot's blocks that it may not write to; NoBlocks, and no change, where
        there are too few for that."""
        table = self._tables[slot]
        # The last first, so that a prefix is the last to be forgotten.
        shared = [n for n in sorted(indices, reverse=True) if not self.book.sole(table[n])]
        for index, own in zip(shared, self.book.allocate(len(shared)), strict=True):
            self.store.copy_block(table[index], own)
            self._set(slot, index, own)

    def _append(self, slot: int, index: int, block: int) -> None:
        """Let a block, which the caller holds, be the next of a slot's table."""
        self._tables[slot].append(block)
        self.store.point(slot, index, block)

    def _set(self, slot: int, index: int, block: int) -> None:
        """Let a block, which the caller holds, take the place of one in a slot's table."""
        before = self._tables[slot][index]
        self._tables[slot][index] = block
        self.store.point(slot, index, block)
        self.book.release(before)
