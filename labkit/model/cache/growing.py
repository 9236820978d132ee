"""Keys and values in tensors that grow by concatenation."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.base.device import Device
from labkit.model.cache.protocol import CacheShape, KeysValues, TensorStore
from labkit.model.cache.table import Cache
from labkit.model.config import ModelConfig
from labkit.model.rows import Rows, Span


class GrowingStore(TensorStore):
    """A pair of tensors for each layer and slot. Every token makes new ones; none is changed."""

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        dtype: torch.dtype = torch.float32,
        device: Device = "cpu",
    ) -> None:
        empty = torch.zeros(config.kv_heads, 0, config.head_dim, dtype=dtype, device=device)
        self.shape = CacheShape.of(config, dtype, empty.device)
        self._pairs = [[(empty, empty) for _ in range(slots)] for _ in range(config.layers)]

    def append(self, layer: int, rows: Rows, keys: Tensor, values: Tensor) -> None:
        for span in rows.spans:
            before = self._pairs[layer][span.slot]
            new = (keys[span.rows].transpose(0, 1), values[span.rows].transpose(0, 1))
            self._pairs[layer][span.slot] = (
                torch.cat((before[0], new[0]), dim=1),
                torch.cat((before[1], new[1]), dim=1),
            )

    def read(self, layer: int, span: Span) -> KeysValues:
        keys, values = self._pairs[layer][span.slot]
        return KeysValues(keys, values, torch.arange(keys.shape[1], device=keys.device))

    def select(self, layer: int, slot: int, kept: Tensor) -> None:
        """Keep only the tokens that `kept` marks, (n,) bool."""
        keys, values = self._pairs[layer][slot]
        self._pairs[layer][slot] = (keys[:, kept], values[:, kept])

    def truncate(self, slot: int, length: int) -> None:
        for pairs in self._pairs:
            keys, values = pairs[slot]
            pairs[slot] = (keys[:, :length].clone(), values[:, :length].clone())

    def move(self, slot: int, source: int, target: int) -> None:
        for pairs in self._pairs:
            keys, values = (tensor.clone() for tensor in pairs[slot])  # a fork may share them
            keys[:, target], values[:, target] = keys[:, source], values[:, source]
            pairs[slot] = (keys, values)

    def copy(self, source: int, target: int, length: int) -> None:
        for pairs in self._pairs:  # tensors are replaced, never written in place: sharing is safe
            pairs[target] = pairs[source]

    @property
    def nbytes(self) -> int:
        unique = {t.data_ptr(): t.nbytes for layer in self._pairs for pair in layer for t in pair}
        return sum(unique.values())


class GrowingCache(Cache):
    """A cache without spare memory, like transformers' dynamic cache.

    Every new token copies all keys and values of its slot.
    """

    store: GrowingStore

    def __init__(
        self,
        config: ModelConfig,
        slots: int = 1,
        dtype: torch.dtype = torch.float32,
        device: Device = "cpu",
    ) -> None:
        super().__init__(GrowingStore(config, slots, dtype, device), slots)
