"""KV caches: what earlier tokens left behind, so that they need not be computed again.

All speak one protocol. A forward pass calls `reserve` once - everything that can go wrong is
checked there, before anything is written - then, layer by layer, `append` and `read`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from labkit.errors import LabkitError
from labkit.model.config import ModelConfig
from labkit.model.rows import Rows, Span


class CacheError(LabkitError):
    """Rows that do not fit the cache they are sent to."""


class Held(NamedTuple):
    """What a slot holds in a layer: keys and values (kv_heads, n, head_dim), positions (n,)."""

    keys: Tensor
    values: Tensor
    positions: Tensor


class KVCache(Protocol):
    """What every cache can do; `slots` sequences live side by side.

    A row at position p may look at positions up to p; with a `window`, only at those above
    p - window and at the first `sinks`.
    """

    slots: int
    window: int | None
    sinks: int

    def reserve(self, rows: Rows) -> None:
        """Make room for `rows`, or raise CacheError and change nothing."""

    def append(self, layer: int, rows: Rows, keys: Tensor, values: Tensor) -> None:
        """Write a layer's keys and values, each (rows, kv_heads, head_dim)."""

    def read(self, layer: int, span: Span) -> Held:
        """All that the span's rows may look at, the rows themselves included."""

    def truncate(self, slot: int, length: int) -> None:
        """Forget everything from position `length` on."""

    def keep(self, slot: int, start: int, rows: Sequence[int]) -> None:
        """Of what lies from `start` on, keep these rows (counted from there, ascending) alone."""

    def fork(self, slot: int) -> int:
        """Copy a slot into a free one and return its number."""

    def length(self, slot: int) -> int:
        """Tokens the slot has seen."""

    @property
    def nbytes(self) -> int:
        """Bytes the cache occupies now."""


class Slots:
    """Lengths and checks that every cache shares."""

    window: int | None = None
    sinks: int = 0

    def __init__(self, slots: int) -> None:
        if slots < 1:
            raise CacheError(f"a cache needs at least one slot; {slots} given.")
        self.slots = slots
        self._lengths = [0] * slots

    def length(self, slot: int) -> int:
        self._check_slot(slot)
        return self._lengths[slot]

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < self.slots:
            raise CacheError(f"slot {slot} does not exist; this cache has 0..{self.slots - 1}.")

    def _check(self, span: Span, capacity: int | None) -> None:
        self._check_slot(span.slot)
        if span.start != self._lengths[span.slot]:
            raise CacheError(
                f"slot {span.slot} holds {self._lengths[span.slot]} tokens; "
                f"rows must go on there, not at position {span.start}."
            )
        if capacity is not None and span.end > capacity:
            raise CacheError(
                f"slot {span.slot} would hold {span.end} tokens, the cache has room for "
                f"{capacity}: make it larger or the prompt shorter."
            )

    def _reserve(self, rows: Rows, capacity: int | None) -> None:
        for span in rows.spans:
            self._check(span, capacity)
        for span in rows.spans:
            self._lengths[span.slot] = span.end

    def _shorten(self, slot: int, length: int) -> None:
        if not 0 <= length <= self.length(slot):
            raise CacheError(
                f"cannot truncate slot {slot} to {length}: it holds {self.length(slot)}."
            )
        self._lengths[slot] = length

    def keep(self, slot: int, start: int, rows: Sequence[int]) -> None:
        """Of what lies from `start` on, keep these rows (counted from there, ascending) alone.

        A pass over a tree is followed by it, with the path that stands.
        """
        held = self.length(slot) - start
        if list(rows) != sorted(set(rows)) or not all(0 <= row < held for row in rows):
            raise CacheError(f"cannot keep rows {list(rows)} of {held} from {start} on.")
        for to, row in enumerate(rows):
            if to != row:
                self._move(slot, start + row, start + to)
        self.truncate(slot, start + len(rows))

    def _move(self, slot: int, source: int, target: int) -> None:
        """Copy what is held at one place to another, in all layers."""
        raise CacheError(f"{type(self).__name__} cannot keep one path of a tree.")

    def truncate(self, slot: int, length: int) -> None:
        raise NotImplementedError

    def _free_slot(self, source: int) -> int:
        self._check_slot(source)
        for slot, length in enumerate(self._lengths):
            if length == 0 and slot != source:
                return slot
        raise CacheError(f"no free slot to fork slot {source} into: the cache has {self.slots}.")


class StaticCache(Slots):
    """One block of memory made beforehand: nothing is copied when a token is added."""

    def __init__(
        self,
        config: ModelConfig,
        slots: int = 1,
        capacity: int = 2048,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(slots)
        self.capacity = capacity
        shape = (2, config.layers, slots, config.kv_heads, capacity, config.head_dim)
        self._keys, self._values = torch.zeros(shape, dtype=dtype, device=device)
        self._positions = torch.arange(capacity, device=device)

    def reserve(self, rows: Rows) -> None:
        self._reserve(rows, self.capacity)

    def append(self, layer: int, rows: Rows, keys: Tensor, values: Tensor) -> None:
        for span in rows.spans:
            at = slice(span.start, span.end)
            self._keys[layer, span.slot, :, at] = keys[span.rows].transpose(0, 1)
            self._values[layer, span.slot, :, at] = values[span.rows].transpose(0, 1)

    def read(self, layer: int, span: Span) -> Held:
        return Held(
            self._keys[layer, span.slot, :, : span.end],
            self._values[layer, span.slot, :, : span.end],
            self._positions[: span.end],
        )

    def tensors(self, slot: int) -> tuple[Tensor, Tensor]:
        """All keys and all values of a slot, (layers, kv_heads, capacity, head_dim), as views."""
        return self._keys[:, slot], self._values[:, slot]

    def truncate(self, slot: int, length: int) -> None:
        self._shorten(slot, length)

    def _move(self, slot: int, source: int, target: int) -> None:
        for block in (self._keys, self._values):
            block[:, slot, :, target] = block[:, slot, :, source]

    def fork(self, slot: int) -> int:
        copy, length = self._free_slot(slot), self.length(slot)
        for block in (self._keys, self._values):
            block[:, copy, :, :length] = block[:, slot, :, :length]
        self._lengths[copy] = length
        return copy

    @property
    def nbytes(self) -> int:
        return self._keys.nbytes + self._values.nbytes


class GrowingCache(Slots):
    """Tensors that grow by concatenation, as transformers' dynamic cache does.

    Holds exactly what it needs, and copies all of it for every token.
    """

    def __init__(
        self,
        config: ModelConfig,
        slots: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(slots)
        empty = torch.zeros(config.kv_heads, 0, config.head_dim, dtype=dtype, device=device)
        self._held = [[(empty, empty) for _ in range(slots)] for _ in range(config.layers)]

    def reserve(self, rows: Rows) -> None:
        self._reserve(rows, None)

    def append(self, layer: int, rows: Rows, keys: Tensor, values: Tensor) -> None:
        for span in rows.spans:
            held = self._held[layer][span.slot]
            new = (keys[span.rows].transpose(0, 1), values[span.rows].transpose(0, 1))
            self._held[layer][span.slot] = (
                torch.cat((held[0], new[0]), dim=1),
                torch.cat((held[1], new[1]), dim=1),
            )

    def read(self, layer: int, span: Span) -> Held:
        keys, values = self._held[layer][span.slot]
        return Held(keys, values, torch.arange(keys.shape[1], device=keys.device))

    def truncate(self, slot: int, length: int) -> None:
        self._shorten(slot, length)
        for held in self._held:
            keys, values = held[slot]
            held[slot] = (keys[:, :length].clone(), values[:, :length].clone())

    def _move(self, slot: int, source: int, target: int) -> None:
        for held in self._held:
            keys, values = (tensor.clone() for tensor in held[slot])  # a fork may share them
            keys[:, target], values[:, target] = keys[:, source], values[:, source]
            held[slot] = (keys, values)

    def fork(self, slot: int) -> int:
        copy, length = self._free_slot(slot), self.length(slot)
        for held in self._held:  # tensors are replaced, never written in place: sharing is safe
            held[copy] = held[slot]
        self._lengths[copy] = length
        return copy

    @property
    def nbytes(self) -> int:
        unique = {t.data_ptr(): t.nbytes for layer in self._held for pair in layer for t in pair}
        return sum(unique.values())


class SlidingWindowCache(Slots):
    """Keeps `sinks` first tokens and the last `window` ones: bounded bytes, other answers.

    The first tokens stay because attention leans on them whatever they say (Xiao et al.,
    2309.17453). Keys keep the rotation of their true positions, so that within the window the
    result equals the full cache's. Rows of one pass see each other and everything held before.
    """

    def __init__(
        self,
        config: ModelConfig,
        window: int,
        sinks: int = 4,
        slots: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(slots)
        if window < 1 or sinks < 0:
            raise CacheError(f"window must be at least 1 and sinks at least 0: {window}, {sinks}.")
        self.window, self.sinks = window, sinks
        self._reach = window
        self._inner = GrowingCache(config, slots, dtype, device)
        none = torch.zeros(0, dtype=torch.int64, device=device)
        # Each layer trims on its own append, so each remembers which positions it holds.
        self._positions = [[none for _ in range(slots)] for _ in range(config.layers)]

    def reserve(self, rows: Rows) -> None:
        if any(span.parents for span in rows.spans):
            raise CacheError("a sliding-window cache takes rows in a chain, not in a tree.")
        self._reserve(rows, None)

    def append(self, layer: int, rows: Rows, keys: Tensor, values: Tensor) -> None:
        for span in rows.spans:
            self._trim(layer, span.slot, span.start)
            new = rows.positions[span.rows]
            held = self._positions[layer]
            held[span.slot] = torch.cat((held[span.slot], new))
        self._inner.append(layer, rows, keys, values)

    def _trim(self, layer: int, slot: int, start: int) -> None:
        """Drop what the row at `start` may no longer see: the window counts the row itself."""
        positions = self._positions[layer][slot]
        keep = (positions < self.sinks) | (positions > start - self._reach)
        if bool(keep.all()):
            return
        keys, values = self._inner._held[layer][slot]
        self._positions[layer][slot] = positions[keep]
        self._inner._held[layer][slot] = (keys[:, keep], values[:, keep])

    def read(self, layer: int, span: Span) -> Held:
        keys, values = self._inner._held[layer][span.slot]
        return Held(keys, values, self._positions[layer][span.slot])

    def truncate(self, slot: int, length: int) -> None:
        """Only while nothing has been dropped, or back to nothing: what is gone stays gone."""
        if length and self.length(slot) > len(self._positions[0][slot]):
            raise CacheError(
                f"slot {slot} has dropped tokens outside its window of {self.window}: "
                "it can be truncated to 0 only. Use a static cache to take drafts back."
            )
        self._shorten(slot, length)
        for layer, held in enumerate(self._inner._held):
            keep = self._positions[layer][slot] < length
            self._positions[layer][slot] = self._positions[layer][slot][keep]
            held[slot] = (held[slot][0][:, keep], held[slot][1][:, keep])

    def fork(self, slot: int) -> int:
        copy, length = self._free_slot(slot), self.length(slot)
        for layer, held in enumerate(self._inner._held):
            held[copy] = held[slot]
            self._positions[layer][copy] = self._positions[layer][slot]
        self._lengths[copy] = length
        return copy

    @property
    def nbytes(self) -> int:
        return self._inner.nbytes
