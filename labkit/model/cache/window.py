"""A cache of the first and the last tokens only: bounded bytes, other answers."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.base.device import Device
from labkit.model.cache.growing import GrowingStore
from labkit.model.cache.protocol import CacheError, KeysValues, TensorStore
from labkit.model.cache.table import Cache
from labkit.model.config import ModelConfig
from labkit.model.rows import Rows, Span


class WindowStore(TensorStore):
    """A growing store that drops keys and values that no later row may attend to.

    It drops them before a pass writes, so the rows of a pass find all that they may attend to.
    """

    trees = False
    window: int

    def __init__(
        self,
        config: ModelConfig,
        window: int,
        sinks: int,
        slots: int,
        dtype: torch.dtype = torch.float32,
        device: Device = "cpu",
    ) -> None:
        if window < 1 or sinks < 0:
            raise CacheError(f"window must be at least 1 and sinks at least 0: {window}, {sinks}.")
        self.window, self.sinks = window, sinks
        self._inner = GrowingStore(config, slots, dtype, device)
        self.shape = self._inner.shape
        none = torch.zeros(0, dtype=torch.int64, device=device)
        # Each layer drops in its own append, so each keeps its own list of positions.
        self._positions = [[none for _ in range(slots)] for _ in range(config.layers)]

    def append(self, layer: int, rows: Rows, keys: Tensor, values: Tensor) -> None:
        for span in rows.spans:
            self._trim(layer, span.slot, span.start)
            new = rows.positions[span.rows]
            positions = self._positions[layer]
            positions[span.slot] = torch.cat((positions[span.slot], new))
        self._inner.append(layer, rows, keys, values)

    def _trim(self, layer: int, slot: int, start: int) -> None:
        """Drop what the row at `start` may not attend to. The window counts the row itself."""
        positions = self._positions[layer][slot]
        kept = (positions < self.sinks) | (positions > start - self.window)
        if not bool(kept.all()):
            self._select(layer, slot, kept)

    def _select(self, layer: int, slot: int, kept: Tensor) -> None:
        self._positions[layer][slot] = self._positions[layer][slot][kept]
        self._inner.select(layer, slot, kept)

    def read(self, layer: int, span: Span) -> KeysValues:
        keys, values, _ = self._inner.read(layer, span)
        return KeysValues(keys, values, self._positions[layer][span.slot])

    def truncate(self, slot: int, length: int) -> None:
        """As Store.truncate; once tokens have been dropped, only to 0."""
        first = self._positions[0][slot]
        if length and len(first) and int(first[-1]) + 1 > len(first):
            raise CacheError(
                f"slot {slot} has dropped tokens outside its window of {self.window}: "
                "it can be truncated to 0 only. Use a static cache to take drafts back."
            )
        for layer, positions in enumerate(self._positions):
            self._select(layer, slot, positions[slot] < length)

    def move(self, slot: int, source: int, target: int) -> None:
        raise CacheError("a sliding-window cache cannot keep one path of a tree.")

    def copy(self, source: int, target: int, length: int) -> None:
        self._inner.copy(source, target, length)
        for positions in self._positions:
            positions[target] = positions[source]

    @property
    def nbytes(self) -> int:
        return self._inner.nbytes


class SlidingWindowCache(Cache):
    """Keeps `sinks` first tokens and the last `window` ones.

    The first tokens stay because attention gives them much weight whatever they are (Xiao et al.,
    2309.17453). Keys keep the rotation of their true positions, so as long as nothing has been
    dropped, the result equals the full cache's.
    """

    store: WindowStore

    def __init__(
        self,
        config: ModelConfig,
        window: int,
        sinks: int = 4,
        slots: int = 1,
        dtype: torch.dtype = torch.float32,
        device: Device = "cpu",
    ) -> None:
        super().__init__(WindowStore(config, window, sinks, slots, dtype, device), slots)
