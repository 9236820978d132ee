"""Caches of blocks under random operations, against lists; and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from labkit.model.cache.blocks import NoBlocks
from labkit.model.cache.paged import BLOCK_SIZE, PagedCache
from labkit.model.cache.paged_store import PagedTensorStore
from labkit.model.cache.protocol import CacheError
from labkit.model.rows import Part, Rows, Span
from tests.model.test_cache import CONFIG, TOKEN_BYTES, CacheMachine, bounded, vectors

SLOTS, BLOCKS = 4, 9
LONG = replace(CONFIG, max_positions=96)  # six blocks

a_slot = st.integers(0, SLOTS - 1)
a_length = st.integers(0, 96)


def paged(blocks: int = BLOCKS, slots: int = SLOTS, config: Any = LONG) -> PagedCache:
    return PagedCache(PagedTensorStore(config, slots, blocks), slots)


class AsAnyCacheMachine(CacheMachine):
    """With blocks enough it is a cache as any other."""

    capacity = 64  # the model's context, four blocks

    def make(self) -> PagedCache:
        return paged(16, 3, CONFIG)

    def nbytes(self) -> int:
        return 16 * BLOCK_SIZE * TOKEN_BYTES


class PagedMachine(RuleBasedStateMachine):
    """Too few blocks for all slots: forks and prefixes share them, and each keeps its own text."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = paged()
        self.cache.reclaim = self.reclaim
        self.held: list[list[int]] = [[] for _ in range(SLOTS)]  # a mark for each position
        self.published: dict[int, list[int]] = {}  # the marks of a block
        self.marks = 0

    def reclaim(self, count: int) -> int:
        oldest = list(self.cache.book.oldest())[:count]
        for block in oldest:
            self.cache.book.withdraw(block)
            del self.published[block]
        return len(oldest)

    @rule(counts=st.dictionaries(a_slot, st.integers(1, 40), min_size=1))
    def append(self, counts: dict[int, int]) -> None:
        """Several slots in one pass. It is refused as a whole, or done as a whole."""
        new = {slot: self.fresh(count) for slot, count in counts.items()}
        parts = [Part(slot, len(self.held[slot]), marks) for slot, marks in new.items()]
        rows = Rows.of(parts)
        capacity = any(len(self.held[slot]) + n > 96 for slot, n in counts.items())
        needed = sum(self.cache.needed(slot, n) for slot, n in counts.items())
        if capacity or needed > self.cache.room:
            with pytest.raises(CacheError if capacity else NoBlocks):
                self.cache.reserve(rows)
            return
        self.cache.reserve(rows)
        for layer in range(LONG.layers):
            keys = vectors(rows.ids, layer)
            self.cache.store.append(layer, rows, keys, -keys)  # type: ignore[attr-defined]
        for slot, marks in new.items():
            self.held[slot] = self.held[slot] + marks

    def fresh(self, count: int) -> list[int]:
        self.marks += count
        return list(range(self.marks - count, self.marks))

    @rule(slot=a_slot, count=st.integers(1, 40))
    def extend(self, slot: int, count: int) -> None:
        """One slot, then everything that was added is dropped: as after a pass that failed."""
        before = self.cache.length(slot)
        if self.cache.takes(slot, count):
            self.cache.extend(slot, count)
            self.cache.truncate(slot, before)
        else:
            with pytest.raises(CacheError):
                self.cache.extend(slot, count)

    @rule(slot=a_slot, length=a_length)
    def truncate(self, slot: int, length: int) -> None:
        if length > len(self.held[slot]):
            with pytest.raises(CacheError):
                self.cache.truncate(slot, length)
            return
        self.cache.truncate(slot, length)
        self.held[slot] = self.held[slot][:length]

    @rule(slot=a_slot)
    def release(self, slot: int) -> None:
        self.cache.release(slot)
        self.held[slot] = []

    @rule(slot=a_slot, start=a_length, data=st.data())
    def keep(self, slot: int, start: int, data: Any) -> None:
        start = min(start, len(self.held[slot]))
        rows = sorted(data.draw(st.sets(st.integers(0, 95), max_size=20)))
        rows = [row for row in rows if row < len(self.held[slot]) - start]
        try:
            self.cache.keep(slot, start, rows)
        except NoBlocks:
            return
        kept = [self.held[slot][start + row] for row in rows]
        self.held[slot] = self.held[slot][:start] + kept

    @rule(slot=a_slot)
    def fork(self, slot: int) -> None:
        if not any(not held for n, held in enumerate(self.held) if n != slot):
            with pytest.raises(CacheError):
                self.cache.fork(slot)
            return
        free = self.cache.room
        self.held[self.cache.fork(slot)] = self.held[slot]
        assert self.cache.room == free

    @rule(slot=a_slot)
    def publish(self, slot: int) -> None:
        for index, block in enumerate(self.cache.blocks(slot)[: len(self.held[slot]) // 16]):
            self.cache.book.publish(block)
            self.published[block] = self.held[slot][16 * index : 16 * index + 16]

    @rule(slot=a_slot, data=st.data())
    def adopt(self, slot: int, data: Any) -> None:
        """Blocks of known contents; those that hold nothing are refused."""
        blocks = data.draw(st.lists(st.integers(0, BLOCKS - 1), max_size=7, unique=True))
        book = self.cache.book
        free = any(not book.count(block) and not book.published(block) for block in blocks)
        if self.held[slot] or free or len(blocks) > 6:
            with pytest.raises(CacheError):
                self.cache.adopt(slot, blocks, 16 * len(blocks))
        elif all(block in self.published for block in blocks):
            self.cache.adopt(slot, blocks, 16 * len(blocks))
            self.held[slot] = [mark for block in blocks for mark in self.published[block]]

    @invariant()
    def holds_what_the_lists_hold(self) -> None:
        self.cache.check()
        for slot, marks in enumerate(self.held):
            assert self.cache.length(slot) == len(marks)
            for layer in range(LONG.layers):
                found = self.cache.store.read(  # type: ignore[attr-defined]
                    layer, Span(slot, 0, len(marks), 0)
                )
                keys = vectors(marks, layer).transpose(0, 1)
                assert torch.equal(found.keys, keys)
                assert torch.equal(found.values, -keys)

    @invariant()
    def counts_the_memory_that_holds_tokens(self) -> None:
        tables = [self.cache.blocks(slot) for slot in range(SLOTS)]
        distinct = {block for table in tables for block in table}
        assert self.cache.positions_held == 16 * len(distinct)
        assert self.cache.tokens_held <= self.cache.positions_held
        if sum(map(len, tables)) == len(distinct):  # nothing is shared
            assert self.cache.tokens_held == sum(map(len, self.held))


TestAsAnyCache = AsAnyCacheMachine.TestCase
TestAsAnyCache.settings = bounded
TestPagedCache = PagedMachine.TestCase
TestPagedCache.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_slot_takes_blocks_as_it_grows() -> None:
    cache = paged()
    assert (cache.needed(0, 16), cache.needed(0, 17)) == (1, 2)
    cache.extend(0, 17)
    assert cache.blocks(0) == (0, 1)
    assert (cache.room, cache.tokens_held, cache.positions_held) == (BLOCKS - 2, 17, 32)
    assert (cache.needed(0, 15), cache.needed(0, 16)) == (0, 1)
    cache.truncate(0, 16)
    assert cache.blocks(0) == (0,)
    cache.release(0)
    assert (cache.blocks(0), cache.room) == ((), BLOCKS)


def test_a_fork_copies_a_block_when_it_writes_and_not_before() -> None:
    cache = paged()
    cache.extend(0, 20)
    copy = cache.fork(0)
    assert cache.blocks(copy) == cache.blocks(0)
    assert (cache.tokens_held, cache.positions_held) == (20, 32)
    assert cache.needed(copy, 1) == cache.needed(0, 1) == 1
    cache.extend(copy, 1)
    assert cache.blocks(copy)[0] == cache.blocks(0)[0]
    assert cache.blocks(copy)[1] != cache.blocks(0)[1]
    assert cache.needed(0, 1) == 0  # it is alone in its block now


def test_the_blocks_that_forks_need_are_counted_for_each_alone() -> None:
    cache = paged(3)
    cache.extend(0, 5)
    cache.fork(0)
    cache.fork(0)
    rows = Rows.of([Part(slot, 5, [1]) for slot in range(3)])
    with pytest.raises(NoBlocks, match="3 blocks are needed, 2 of 3 can be had"):
        cache.reserve(rows)
    assert [cache.length(slot) for slot in range(3)] == [5, 5, 5]
    cache.reserve(Rows.of([Part(slot, 5, [1]) for slot in range(2)]))
    cache.check()


def test_a_published_block_is_copied_before_it_is_written() -> None:
    cache = paged()
    cache.extend(0, 32)
    for block in cache.blocks(0):
        cache.book.publish(block)
    cache.truncate(0, 20)
    assert cache.needed(0, 1) == 1
    cache.extend(0, 1)
    assert cache.blocks(0)[0] == 0
    assert cache.blocks(0)[1] != 1
    assert list(cache.book.oldest()) == [1]


def test_a_block_is_replaced_by_one_with_the_same_contents() -> None:
    cache = paged()
    cache.extend(0, 16)
    cache.extend(1, 20)
    cache.replace(1, 0, cache.blocks(0)[0])
    assert cache.blocks(1)[0] == cache.blocks(0)[0]
    cache.check()
    with pytest.raises(CacheError, match="slot 1 has no whole block 1"):
        cache.replace(1, 1, cache.blocks(0)[0])


def test_what_cannot_be_adopted_is_refused() -> None:
    cache = paged(20)
    cache.extend(0, 32)
    first, second = cache.blocks(0)
    for slot, blocks, length, message in (
        (0, [first], 16, "slot 0 holds 32 tokens"),
        (1, [first, second], 31, "whole blocks of 16"),
        (1, [first, first], 32, "each once"),
        (1, [first, 7], 32, "block 7 is free"),
        (1, [first, 20], 32, "block 20 does not exist"),
        (9, [first], 16, "slot 9 does not exist"),
    ):
        with pytest.raises(CacheError, match=message):
            cache.adopt(slot, blocks, length)
        cache.check()
    with pytest.raises(CacheError, match="room for 96 tokens; 112 given"):
        cache.adopt(1, range(7), 112)


@pytest.mark.parametrize(("slots", "blocks"), [(0, 1), (1, 0), (-1, 5)])
def test_sizes_that_make_no_cache_are_refused(slots: int, blocks: int) -> None:
    with pytest.raises(CacheError, match="at least one slot and one block"):
        paged(blocks, slots)


def test_a_slot_holds_no_more_than_the_models_context() -> None:
    cache = paged(9, 1, replace(CONFIG, max_positions=90))
    assert cache.capacity == 90
    cache.extend(0, 90)
    assert len(cache.blocks(0)) == 6
    with pytest.raises(CacheError, match="room for 90"):
        cache.extend(0, 1)


def test_blocks_go_through_bytes_unchanged() -> None:
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        store = PagedTensorStore(LONG, 1, 3, dtype)
        store._both[:, :, 1] = torch.randn(store._both[:, :, 1].shape)
        content = store.read_block(1)
        store.write_block(2, content)
        assert torch.equal(store._both[:, :, 1], store._both[:, :, 2])
        assert not store._both[:, :, 0].any()
        assert len(content) == BLOCK_SIZE * LONG.kv_bytes_per_token(dtype.itemsize)
        with pytest.raises(CacheError, match="bytes for a block"):
            store.write_block(2, content[:-1])


def test_a_fault_of_a_table_is_named() -> None:
    cache = paged()
    cache.extend(0, 20)
    cache.book.hold(0)
    with pytest.raises(CacheError, match="block 0 has count 2; 1 tables point to it"):
        cache.check()
    cache.check(others=[0])
    cache._lengths[0] = 40
    with pytest.raises(CacheError, match=r"slot 0: 40 tokens, blocks \[0, 1\]"):
        cache.check(others=[0])
