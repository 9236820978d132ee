"""Keys and values in memory that is allocated beforehand."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.base.device import Device
from labkit.model.cache.protocol import CacheError, CacheShape, KeysValues, TensorStore
from labkit.model.cache.table import Cache
from labkit.model.config import ModelConfig
from labkit.model.rows import Rows, Span


class StaticStore(TensorStore):
    """Two blocks (layers, slots, kv_heads, capacity, head_dim): a new token copies nothing."""

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: Device = "cpu",
    ) -> None:
        if slots < 1 or capacity < 1:
            raise CacheError(
                f"a cache needs at least one slot with room for at least one token; "
                f"{slots} with room for {capacity} given."
            )
        self.capacity = capacity
        shape = (2, config.layers, slots, config.kv_heads, capacity, config.head_dim)
        blocks = torch.zeros(shape, dtype=dtype, device=device)
        self._keys, self._values = blocks[0], blocks[1]
        self.shape = CacheShape.of(config, dtype, blocks.device)
        self._positions = torch.arange(capacity, device=device)

    def append(self, layer: int, rows: Rows, keys: Tensor, values: Tensor) -> None:
        for span in rows.spans:
            at = slice(span.start, span.end)
            self._keys[layer, span.slot, :, at] = keys[span.rows].transpose(0, 1)
            self._values[layer, span.slot, :, at] = values[span.rows].transpose(0, 1)

    def read(self, layer: int, span: Span) -> KeysValues:
        return KeysValues(
            self._keys[layer, span.slot, :, : span.end],
            self._values[layer, span.slot, :, : span.end],
            self._positions[: span.end],
        )

    def tensors(self, slot: int) -> tuple[Tensor, Tensor]:
        """All keys and all values of a slot, (layers, kv_heads, capacity, head_dim), as views."""
        return self._keys[:, slot], self._values[:, slot]

    def truncate(self, slot: int, length: int) -> None:
        """Nothing to do: later rows overwrite the dropped ones."""

    def move(self, slot: int, source: int, target: int) -> None:
        for block in (self._keys, self._values):
            block[:, slot, :, target] = block[:, slot, :, source]

    def copy(self, source: int, target: int, length: int) -> None:
        for block in (self._keys, self._values):
            block[:, target, :, :length] = block[:, source, :, :length]

    @property
    def nbytes(self) -> int:
        return self._keys.nbytes + self._values.nbytes


class StaticCache(Cache):
    """A cache of fixed capacity: adding a token copies nothing."""

    store: StaticStore

    def __init__(
        self,
        config: ModelConfig,
        slots: int = 1,
        capacity: int = 2048,
        dtype: torch.dtype = torch.float32,
        device: Device = "cpu",
    ) -> None:
        super().__init__(StaticStore(config, slots, capacity, dtype, device), slots)
