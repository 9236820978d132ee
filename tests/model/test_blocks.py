"""The bookkeeping of numbered blocks: by hand, and under random operations against counts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from labkit.model.cache.blocks import GROUP, Blocks, NoBlocks
from labkit.model.cache.paged import PagedCache
from labkit.model.cache.paged_store import PagedTensorStore
from labkit.model.cache.protocol import CacheError
from labkit.model.rows import Part, Rows
from tests.model.test_cache import CONFIG

TOTAL = 21  # two groups and a part of one

a_block = st.integers(-1, TOTAL)  # the first and the last do not exist


class BlocksMachine(RuleBasedStateMachine):
    """Every operation goes to the bookkeeping and to a dict of counts; what is refused changes
    neither."""

    def __init__(self) -> None:
        super().__init__()
        self.book = Blocks(TOTAL)
        self.counts: dict[int, int] = {}
        self.published: set[int] = set()
        self.asked: list[int] = []

    @rule(reclaims=st.booleans())
    def let_reclaim(self, reclaims: bool) -> None:
        self.book.reclaim = self.reclaim if reclaims else None

    def reclaim(self, count: int) -> int:
        oldest = list(self.book.oldest())[:count]
        for block in oldest:
            self.book.withdraw(block)
            self.published.remove(block)
        return len(oldest)

    @property
    def cached(self) -> set[int]:
        return {block for block in self.published if not self.counts.get(block)}

    @rule(count=st.integers(-1, TOTAL + 1), after=st.none() | a_block)
    def allocate(self, count: int, after: int | None) -> None:
        free = TOTAL - len(self.counts) - len(self.cached)
        room = free + (len(self.cached) if self.book.reclaim is not None else 0)
        assert self.book.room == room
        if count < 0 or count > room:
            with pytest.raises(NoBlocks if count > room else CacheError):
                self.book.allocate(count, after)
            return
        taken = self.book.allocate(count, after)
        assert len(set(taken)) == len(taken) == count
        assert not set(taken) & {*self.counts, *self.cached}
        self.counts.update(dict.fromkeys(taken, 1))

    @rule(block=a_block)
    def hold(self, block: int) -> None:
        if block in self.counts or block in self.cached:
            self.book.hold(block)
            self.counts[block] = self.counts.get(block, 0) + 1
        else:
            self.refused(lambda: self.book.hold(block))

    @rule(block=a_block)
    def release(self, block: int) -> None:
        if block in self.counts:
            self.book.release(block)
            self.counts[block] -= 1
            if not self.counts[block]:
                del self.counts[block]
        else:
            self.refused(lambda: self.book.release(block))

    @rule(block=a_block)
    def publish(self, block: int) -> None:
        if block in self.counts:
            self.book.publish(block)
            self.published.add(block)
        else:
            self.refused(lambda: self.book.publish(block))

    @rule(block=a_block)
    def withdraw(self, block: int) -> None:
        if block in self.published:
            self.book.withdraw(block)
            self.published.remove(block)
        else:
            self.refused(lambda: self.book.withdraw(block))

    def refused(self, operation: Callable[[], None]) -> None:
        with pytest.raises(CacheError):
            operation()

    @invariant()
    def counts_are_those_of_the_dict(self) -> None:
        self.book.check()
        for block in range(TOTAL):
            assert self.book.count(block) == self.counts.get(block, 0)
            assert self.book.published(block) == (block in self.published)
            assert self.book.sole(block) == (
                self.counts.get(block) == 1 and block not in self.published
            )
        assert self.book.held == len(self.counts)
        assert set(self.book.oldest()) == self.cached
        assert self.book.free + self.book.held + self.book.cached == TOTAL


TestBlocks = BlocksMachine.TestCase
TestBlocks.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_blocks_of_a_table_are_consecutive() -> None:
    book = Blocks(40)
    assert book.allocate(3) == [0, 1, 2]
    assert book.allocate(2, after=2) == [3, 4]


def test_tables_that_grow_in_turn_stay_consecutive_within_a_group() -> None:
    book = Blocks(6 * GROUP)
    tables: list[list[int]] = [[], [], []]
    for _ in range(2 * GROUP):
        for table in tables:
            table += book.allocate(1, table[-1] if table else None)
    for table in tables:
        for first in (0, GROUP):
            group = table[first : first + GROUP]
            assert group == list(range(group[0], group[0] + GROUP))


def test_every_block_can_be_had_however_they_lie() -> None:
    book = Blocks(TOTAL)
    taken = book.allocate(TOTAL)
    for block in taken[::2]:
        book.release(block)
    assert sorted(book.allocate(len(taken[::2]))) == sorted(taken[::2])
    with pytest.raises(NoBlocks, match="1 blocks are needed; 0 of 21 are free and 0 cached"):
        book.allocate(1)


def test_the_block_that_was_released_first_is_the_oldest() -> None:
    book = Blocks(8)
    for block in book.allocate(4):
        book.publish(block)
    for block in (2, 0, 3):
        book.release(block)
    assert list(book.oldest()) == [2, 0, 3]
    book.hold(2)
    book.release(2)
    assert list(book.oldest()) == [0, 3, 2]


def test_a_reclaim_that_frees_too_few_is_found_out() -> None:
    book = Blocks(1)
    (block,) = book.allocate(1)
    book.publish(block)
    book.release(block)
    book.reclaim = lambda count: 0
    with pytest.raises(NoBlocks):
        book.allocate(1)
    book.check()


def test_no_blocks_are_no_cache() -> None:
    with pytest.raises(CacheError, match="at least one block; 0 given"):
        Blocks(0)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda book: book._counts.__setitem__(5, 1), "block 5: held True, free True"),
        (lambda book: book._free.pop(5), "block 5: held False, free False"),
        (lambda book: book._published.__setitem__(5, 1), "block 5: count 0, free, published"),
        (lambda book: book._published.__setitem__(1, 0), "block 1 is cached but not published"),
        (lambda book: book._free_in.__setitem__(1, 3), "group 1 has 8 free blocks; 3 were"),
    ],
)
def test_a_fault_is_named(damage: Callable[[Blocks], None], fault: str) -> None:
    book = Blocks(TOTAL)
    book.allocate(3)
    book.publish(1)
    book.release(1)
    book.check()
    damage(book)
    with pytest.raises(CacheError, match=fault):
        book.check()


def test_a_reclaim_that_raises_leaves_all_tables_as_they_were() -> None:
    """Else a slot holds blocks beyond its length, and the next pass counts too few for others."""
    cache = PagedCache(PagedTensorStore(CONFIG, 3, 4), 3)
    cache.extend(0, 32)
    for block in cache.blocks(0):
        cache.book.publish(block)
    cache.release(0)

    def fails(count: int) -> int:
        raise MemoryError("no memory to save a block in")

    cache.reclaim = fails
    with pytest.raises(MemoryError):
        cache.reserve(Rows.of([Part(1, 0, [0] * 32), Part(2, 0, [0] * 16)]))
    cache.check()
    assert [cache.length(slot) for slot in range(3)] == [0, 0, 0]
