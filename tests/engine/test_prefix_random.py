"""The prefix cache under random requests: what a slot holds is always what its own text makes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from labkit.engine.prefix import PrefixCache, PrefixKey
from labkit.engine.prefix_key import sha256
from labkit.engine.write_behind import WriteBehind
from labkit.model.cache.blocks import NoBlocks
from labkit.model.cache.paged import PagedCache
from labkit.model.cache.paged_store import PagedTensorStore
from labkit.model.rows import Part, Rows, Span
from tests.model.test_cache import CONFIG, vectors
from tests.paged_helpers import free_blocks, poison

SLOTS, BLOCKS, LONGEST = 4, 11, 96
KEYS = [PrefixKey("m", "w", salt="a"), PrefixKey("m", "w", adapter="a")]
PIECES = [[1] * 16, [2] * 16, [1] * 15 + [2]]


def few(content: bytes) -> bytes:
    """A hash of few values, which collide all the time."""
    return bytes([sha256(content)[0] % 6])


@dataclass
class Memory:
    """A disk tier in memory, with one content a name, which another thread fills."""

    kept: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.behind = WriteBehind(self.put, 2**16)
        self.put_soon, self.flush = self.behind.put, self.behind.flush
        self.buffer = self.behind.buffer

    def get(self, name: bytes, history: bytes) -> bytes | None:
        if (waiting := self.behind.get(name, history)) is not None:
            return waiting
        found = self.kept.get(name)
        return found[1] if found is not None and found[0] == history else None

    def put(self, name: bytes, history: bytes, content: bytes | bytearray) -> None:
        old = self.kept.get(name)
        assert old is None or old[0] != history or old[1] == content
        self.kept[name] = history, bytes(content)  # a copy: its memory is used again


@dataclass
class Served:
    """The request of a slot: its text, of which the slot holds the beginning."""

    text: list[int]
    key: PrefixKey


class Simulation:
    """Requests with equal beginnings come, are read in chunks, end, and are aborted anywhere. The
    content of a position is a number that belongs to its key and all tokens up to it."""

    def __init__(self, seed: int, disk: bool, weak: bool) -> None:
        self.rng = random.Random(seed)
        config = replace(CONFIG, max_positions=LONGEST)
        self.cache = PagedCache(PagedTensorStore(config, SLOTS, BLOCKS), SLOTS)
        tier = Memory() if disk else None
        self.prefix = PrefixCache(self.cache, KEYS[0], tier, few if weak else sha256)
        self.served: dict[int, Served] = {}
        self.numbers: dict[tuple[Any, ...], int] = {}
        self.steps = [
            self.start, self.start, self.read, self.read, self.read, self.publish, self.publish,
            self.end, self.end, self.abort, self.go_on_otherwise, self.fork, self.save,
        ]  # fmt: skip

    def step(self) -> None:
        self.rng.choice(self.steps)()
        if self.rng.random() < 0.01:
            self.clear()
        self.check()

    def contents(self, served: Served) -> list[int]:
        """The number of each position of a text."""
        ways = [(served.key, tuple(served.text[: n + 1])) for n in range(len(served.text))]
        return [self.numbers.setdefault(way, len(self.numbers)) for way in ways]

    def some(self) -> int | None:
        """A slot that serves a request."""
        return self.rng.choice(list(self.served)) if self.served else None

    def start(self) -> None:
        free = [slot for slot in range(SLOTS) if slot not in self.served]
        if not free:
            return
        pieces = self.rng.choices(PIECES, [6, 2, 1], k=self.rng.randint(0, 5))
        text = [token for piece in pieces for token in piece]
        text += self.rng.choices([1, 2], k=self.rng.randint(1, 15))
        served = Served(text, self.rng.choices(KEYS, [4, 1])[0])
        found = self.prefix.match(text, served.key)
        assert len(found) * 16 < len(text)  # a row is left to ask
        self.cache.adopt(free[0], found, len(found) * 16)
        self.served[free[0]] = served

    def read(self) -> None:
        """The next chunk of several texts in one pass, where there is room for it."""
        parts = []
        for slot, served in self.served.items():
            at, count = self.cache.length(slot), self.rng.choice([1, 15, 16, 40, 96])
            rows = self.contents(served)[at : at + count]
            if rows and self.rng.random() < 0.7:
                parts.append(Part(slot, at, rows))
        rows_of_all = Rows.of(parts)
        try:
            self.cache.reserve(rows_of_all)
        except NoBlocks:
            return
        store: Any = self.cache.store
        for layer in range(CONFIG.layers):
            keys = vectors(rows_of_all.ids, layer)
            store.append(layer, rows_of_all, keys, -keys)

    def publish(self) -> None:
        if (slot := self.some()) is not None:
            self.prefix.publish(slot, self.served[slot].text, self.served[slot].key)

    def end(self) -> None:
        if (slot := self.some()) is not None:
            self.prefix.publish(slot, self.served[slot].text, self.served[slot].key)
            self.cache.release(slot)
            del self.served[slot]

    def abort(self) -> None:
        """In the middle of the prompt, or after it; a preemption is the same."""
        if (slot := self.some()) is not None:
            self.cache.release(slot)
            del self.served[slot]

    def go_on_otherwise(self) -> None:
        """A rejected draft: the text is cut and goes on with other tokens."""
        if (slot := self.some()) is not None:
            length = self.rng.randint(0, self.cache.length(slot))
            self.cache.truncate(slot, length)
            text = self.served[slot].text[:length] + [self.rng.randint(1, 2)] * 18
            self.served[slot] = Served(text[:LONGEST], self.served[slot].key)

    def fork(self) -> None:
        slot = self.some()
        free = [n for n in range(SLOTS) if n not in self.served]
        if slot is not None and free and self.cache.length(slot):
            empty = [n for n in range(SLOTS) if not self.cache.length(n)]
            if empty[0] in free:
                self.served[self.cache.fork(slot)] = replace(self.served[slot])

    def save(self) -> None:
        self.prefix.save(1)

    def clear(self) -> None:
        self.prefix.clear()
        assert len(self.prefix) == self.cache.book.cached == 0

    def check(self) -> None:
        """Every block is counted, and every slot holds its own text."""
        self.cache.check()
        self.prefix.check()
        poison(self.cache, free_blocks(self.cache))
        book, store = self.cache.book, self.cache.store
        assert self.cache.room == book.free + book.cached
        for slot, served in self.served.items():
            length = self.cache.length(slot)
            keys = vectors(self.contents(served)[:length], 1).transpose(0, 1)
            found = store.read(1, Span(slot, 0, length, 0))  # type: ignore[attr-defined]
            assert torch.equal(found.keys, keys)
            assert torch.equal(found.values, -keys)


@pytest.mark.parametrize("weak", [False, True], ids=["sha256", "collisions"])
@pytest.mark.parametrize("disk", [False, True], ids=["memory", "disk"])
def test_every_slot_holds_its_own_text_whatever_happens(disk: bool, weak: bool) -> None:
    found = evicted = 0
    for seed in range(12):
        simulation = Simulation(seed, disk, weak)
        for _ in range(200):
            simulation.step()
        counts = simulation.prefix.counts
        found += counts.from_disk if disk else counts.from_memory
        evicted += counts.evicted
        everything_can_be_had_again(simulation)
    assert found > 16 * 20  # the simulation is about something
    assert evicted > 4


def everything_can_be_had_again(simulation: Simulation) -> None:
    for slot in range(SLOTS):
        simulation.cache.release(slot)
    assert sorted(simulation.cache.book.allocate(BLOCKS)) == list(range(BLOCKS))
    assert len(simulation.prefix) == 0
