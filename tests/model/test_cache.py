"""Caches under random operations, against plain Python lists."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from torch import Tensor

from labkit.model.cache.growing import GrowingCache
from labkit.model.cache.protocol import CacheError
from labkit.model.cache.static import StaticCache
from labkit.model.cache.window import SlidingWindowCache
from labkit.model.config import ModelConfig
from labkit.model.rows import Part, Rows, Span

CONFIG = ModelConfig(
    family="llama", vocab_size=10, hidden_size=8, intermediate_size=8, layers=2, heads=4,
    kv_heads=2, head_dim=3, rms_norm_eps=1e-5, rope_theta=1e4, max_positions=64,
)  # fmt: skip
TOKEN_BYTES = 2 * 2 * 2 * 3 * 4  # keys and values, layers, kv_heads, head_dim, float32
SLOTS, CAPACITY, WINDOW, SINKS = 3, 12, 4, 2

a_slot = st.integers(-1, SLOTS)  # the first and the last do not exist
a_length = st.integers(-1, CAPACITY + 2)


def vectors(marks: list[int], layer: int) -> Tensor:
    """A key for each mark, (rows, kv_heads, head_dim): no two elements of a cache are equal."""
    base = torch.tensor(marks, dtype=torch.float32)[:, None] * 100 + layer * 10
    return (base + torch.arange(6)).view(-1, 2, 3)


@dataclass
class Plain:
    """What a slot must hold: (position, mark) pairs, in a store that forks may share."""

    length: int = 0
    held: list[tuple[int, int]] = field(default_factory=list)
    store: object = field(default_factory=object)

    def take(self, start: int, marks: list[int]) -> None:
        self.held = [*self.held, *enumerate(marks, start)]
        self.length, self.store = start + len(marks), object()

    def truncate(self, length: int) -> None:
        self.held = [pair for pair in self.held if pair[0] < length]
        self.length, self.store = length, object()


class CacheMachine(RuleBasedStateMachine):
    """Every operation goes to a cache and to lists; what is refused may change neither."""

    capacity = 10**9

    def __init__(self) -> None:
        super().__init__()
        self.cache: Any = self.make()
        self.plain = [Plain() for _ in range(SLOTS)]
        self.marks = 0

    def make(self) -> Any:
        raise NotImplementedError

    def forgets(self, plain: Plain, start: int) -> None:
        """What an append at `start` drops first."""

    def may_truncate(self, plain: Plain, length: int) -> bool:
        return 0 <= length <= plain.length

    def nbytes(self) -> int:
        stores = {id(plain.store): len(plain.held) for plain in self.plain}
        return sum(stores.values()) * TOKEN_BYTES

    @rule(
        parts=st.dictionaries(
            a_slot, st.tuples(st.integers(1, 7), st.sampled_from([0] * 9 + [1, -1]))
        )
    )
    def append(self, parts: dict[int, tuple[int, int]]) -> None:
        """Several slots in one pass, now and then at a position that is not the next."""
        spans, good = [], True
        for slot, (count, shift) in parts.items():
            exists = 0 <= slot < SLOTS
            start = (self.plain[slot].length if exists else 0) + shift
            good &= exists and shift == 0 and start + count <= self.capacity
            marks = list(range(self.marks, self.marks + count))
            self.marks += count
            spans.append(Part(slot, start, marks))
        rows = Rows.of(spans)
        if not good:
            with pytest.raises(CacheError):
                self.cache.reserve(rows)
            return
        self.cache.reserve(rows)
        for layer in range(CONFIG.layers):
            keys = vectors(rows.tokens.tolist(), layer)
            self.cache.store.append(layer, rows, keys, -keys)
        for part in spans:
            self.forgets(self.plain[part.slot], part.start)
            self.plain[part.slot].take(part.start, list(part.tokens))

    @rule(slot=a_slot, length=a_length)
    def truncate(self, slot: int, length: int) -> None:
        if 0 <= slot < SLOTS and self.may_truncate(self.plain[slot], length):
            self.cache.truncate(slot, length)
            self.plain[slot].truncate(length)
        else:
            with pytest.raises(CacheError):
                self.cache.truncate(slot, length)

    @rule(slot=a_slot)
    def fork(self, slot: int) -> None:
        free = [n for n, plain in enumerate(self.plain) if plain.length == 0 and n != slot]
        if not 0 <= slot < SLOTS or not free:
            with pytest.raises(CacheError):
                self.cache.fork(slot)
            return
        copy = self.cache.fork(slot)
        assert copy in free
        self.plain[copy] = replace(self.plain[slot])

    @invariant()
    def holds_what_the_lists_hold(self) -> None:
        for slot, plain in enumerate(self.plain):
            assert self.cache.length(slot) == plain.length
            for layer in range(CONFIG.layers):
                held = self.cache.store.read(layer, Span(slot, 0, plain.length, 0))
                keys = vectors([mark for _, mark in plain.held], layer).transpose(0, 1)
                assert held.positions.tolist() == [position for position, _ in plain.held]
                assert torch.equal(held.keys, keys)
                assert torch.equal(held.values, -keys)

    @invariant()
    def occupies_what_it_must(self) -> None:
        assert self.cache.nbytes == self.nbytes()


class StaticMachine(CacheMachine):
    capacity = CAPACITY

    def make(self) -> StaticCache:
        return StaticCache(CONFIG, SLOTS, CAPACITY)

    def nbytes(self) -> int:
        return SLOTS * CAPACITY * TOKEN_BYTES  # from the first moment, and never more


class GrowingMachine(CacheMachine):
    def make(self) -> GrowingCache:
        return GrowingCache(CONFIG, SLOTS)


class SlidingMachine(CacheMachine):
    def make(self) -> SlidingWindowCache:
        return SlidingWindowCache(CONFIG, WINDOW, SINKS, SLOTS)

    def forgets(self, plain: Plain, start: int) -> None:
        plain.held = [p for p in plain.held if p[0] < SINKS or p[0] > start - WINDOW]

    def may_truncate(self, plain: Plain, length: int) -> bool:
        whole = len(plain.held) == plain.length
        return length == 0 or (whole and 0 <= length <= plain.length)


bounded = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestStaticCache = StaticMachine.TestCase
TestStaticCache.settings = bounded
TestGrowingCache = GrowingMachine.TestCase
TestGrowingCache.settings = bounded
TestSlidingWindowCache = SlidingMachine.TestCase
TestSlidingWindowCache.settings = bounded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nbytes_follow_the_dtype(dtype: torch.dtype) -> None:
    size = torch.finfo(dtype).bits // 8
    assert StaticCache(CONFIG, 2, 7, dtype).nbytes == 2 * 7 * CONFIG.kv_bytes_per_token(size)
    assert GrowingCache(CONFIG, 2, dtype).nbytes == 0


def test_a_window_stays_bounded_however_long_the_stream() -> None:
    cache = SlidingWindowCache(CONFIG, WINDOW, SINKS)
    for at in range(40):
        rows = Rows.decode({0: (at, at)})
        cache.reserve(rows)
        for layer in range(CONFIG.layers):
            cache.store.append(layer, rows, vectors([at], layer), vectors([at], layer))
    assert cache.length(0) == 40
    assert cache.nbytes == (WINDOW + SINKS) * TOKEN_BYTES


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StaticCache(CONFIG, slots=0), "at least one slot"),
        (lambda: StaticCache(CONFIG, slots=-1), "at least one slot"),
        (lambda: StaticCache(CONFIG, capacity=0), "1 with room for 0 given"),
        (lambda: SlidingWindowCache(CONFIG, window=0), "window must be at least 1"),
        (lambda: SlidingWindowCache(CONFIG, window=4, sinks=-1), "sinks at least 0"),
    ],
)
def test_sizes_that_make_no_cache_are_refused(make: Any, message: str) -> None:
    with pytest.raises(CacheError, match=message):
        make()


def test_errors_say_what_was_given_and_what_is_allowed() -> None:
    cache = StaticCache(CONFIG, slots=2, capacity=5)
    for rows, message in (
        (Rows.prefill([0] * 6), "would hold 6 tokens, the cache has room for 5"),
        (Rows.prefill([0], start=3), "holds 0 tokens; rows must go on there, not at position 3"),
        (Rows.prefill([0], slot=2), r"slot 2 does not exist; this cache has 0\.\.1"),
    ):
        with pytest.raises(CacheError, match=message):
            cache.reserve(rows)
    with pytest.raises(CacheError, match="cannot truncate slot 0 to 1: it holds 0"):
        cache.truncate(0, 1)


def test_rows_before_the_first_position_cannot_be_kept() -> None:
    cache = StaticCache(CONFIG, 1, 8)
    cache.extend(0, 5)
    with pytest.raises(CacheError, match="cannot keep rows"):
        cache.keep(0, -2, [0, 3])
    assert cache.length(0) == 5


def test_a_cache_is_not_extended_by_less_than_a_row() -> None:
    cache = StaticCache(CONFIG, 1, 5)
    with pytest.raises(CacheError, match="at least one row; -3 given"):
        cache.extend(0, -3)
    assert cache.length(0) == 0
