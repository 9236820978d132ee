"""The table of a cache: how many positions each slot has."""

from __future__ import annotations

from collections.abc import Sequence

from labkit.model.cache.protocol import CacheError, CacheShape, Store, TensorStore
from labkit.model.rows import Rows, Span


class Cache:
    """`slots` sequences side by side: the length of each, and the store of their keys and values.

    A forward pass calls `reserve` first. It checks that the rows fit, before anything is written.
    Then the pass writes to the store and reads from it, layer by layer.
    """

    def __init__(self, store: Store, slots: int) -> None:
        if slots < 1:
            raise CacheError(f"a cache needs at least one slot; {slots} given.")
        self.store, self.slots = store, slots
        self._lengths = [0] * slots

    @property
    def capacity(self) -> int | None:
        """The most tokens of a slot; None: as many as fit in memory."""
        return self.store.capacity

    @property
    def window(self) -> int | None:
        """How many positions a row attends to, with its own; None: all."""
        return self.store.window

    @property
    def nbytes(self) -> int:
        """Bytes the cache occupies now."""
        return self.store.nbytes

    def length(self, slot: int) -> int:
        """Tokens of the slot that are in the cache."""
        self._check_slot(slot)
        return self._lengths[slot]

    def reserve(self, rows: Rows) -> None:
        """Make room for `rows`, or raise CacheError and change nothing."""
        for span in rows.spans:
            self._check(span)
        for span in rows.spans:
            self._lengths[span.slot] = span.end

    def extend(self, slot: int, count: int) -> None:
        """Make room for `count` rows at the end of a slot, or raise CacheError and change nothing.

        The same as `reserve`, for a caller that has no Rows.
        """
        self._lengths[slot] = self._extended(slot, count)

    def takes(self, slot: int, count: int, tree: bool = False) -> bool:
        """Whether `count` more rows fit at the end of a slot, as a chain or as a tree."""
        capacity = self.store.capacity
        room = capacity is None or self._lengths[slot] + count <= capacity
        return room and (not tree or self.store.trees)

    def truncate(self, slot: int, length: int) -> None:
        """Drop everything from position `length` on."""
        before = self.length(slot)
        if not 0 <= length <= before:
            raise CacheError(f"cannot truncate slot {slot} to {length}: it holds {before}.")
        self.store.truncate(slot, length)
        self._lengths[slot] = length

    def keep(self, slot: int, start: int, rows: Sequence[int]) -> None:
        """Of the rows from position `start` on, keep only `rows`: numbers from `start`, ascending.

        After a pass over a tree, this keeps the accepted path.
        """
        self._check_kept(slot, start, rows)
        for to, row in enumerate(rows):
            if to != row:
                self.store.move(slot, start + row, start + to)
        self.truncate(slot, start + len(rows))

    def fork(self, slot: int) -> int:
        """Copy a slot into a free one and return its number."""
        length = self.length(slot)
        copy = self._free_slot(slot)
        self.store.copy(slot, copy, length)
        self._lengths[copy] = length
        return copy

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.slots:
            raise CacheError(f"slot {slot} does not exist; this cache has 0..{self.slots - 1}.")

    def _check(self, span: Span) -> None:
        length, capacity = self.length(span.slot), self.store.capacity
        if span.start != length:
            raise CacheError(
                f"slot {span.slot} holds {length} tokens; "
                f"rows must go on there, not at position {span.start}."
            )
        if capacity is not None and span.end > capacity:
            raise CacheError(
                f"slot {span.slot} would hold {span.end} tokens, the cache has room for "
                f"{capacity}: make it larger or the prompt shorter."
            )
        if span.parents and not self.store.trees:
            raise CacheError(f"{type(self.store).__name__} takes rows in a chain, not in a tree.")

    def _extended(self, slot: int, count: int) -> int:
        """The length of a slot after `count` more rows; CacheError where they do not fit."""
        length, capacity = self.length(slot), self.store.capacity
        if count < 1:
            raise CacheError(f"a cache is extended by at least one row; {count} given.")
        if capacity is not None and length + count > capacity:
            self._check(Span(slot, length, count, 0))  # raises
        return length + count

    def _check_kept(self, slot: int, start: int, rows: Sequence[int]) -> None:
        count = self.length(slot) - start
        inside = start >= 0 and all(0 <= row < count for row in rows)
        if not inside or list(rows) != sorted(set(rows)):
            raise CacheError(f"cannot keep rows {list(rows)} of {count} from {start} on.")

    def _free_slot(self, source: int) -> int:
        for slot, length in enumerate(self._lengths):
            if length == 0 and slot != source:
                return slot
        raise CacheError(f"no free slot to fork slot {source} into: the cache has {self.slots}.")


def tensors_of(cache: Cache, shape: CacheShape | None = None) -> TensorStore:
    """The tensor store of a cache; CacheError for another kind of store, or another shape."""
    if not isinstance(cache.store, TensorStore):
        raise CacheError(
            f"a PyTorch decoder cannot read a {type(cache.store).__name__}: "
            "take a cache that the decoder's own new_cache made."
        )
    if shape is not None and cache.store.shape != shape:
        raise CacheError(
            f"this cache has {cache.store.shape}; the model needs {shape}: "
            "take a cache that the decoder's own new_cache made."
        )
    return cache.store
