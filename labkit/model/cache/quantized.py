"""A KV cache in 8 bits: a quarter of float32's bytes, or half of 16 bits', with other answers.

Each key and each value of a token and KV head has its own scale. So a row can be written, dropped
or copied without changing another. KIVI (2402.02750) shows that with 2 bits, keys need a scale for
each channel over many tokens. With 8 bits, one scale for each token is enough.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from labkit.base.device import Device
from labkit.model.cache.protocol import CacheShape, KeysValues, TensorStore
from labkit.model.cache.static import StaticStore
from labkit.model.cache.table import Cache
from labkit.model.config import ModelConfig
from labkit.model.rows import Rows, Span

_LEAST = 2.0**-24  # the smallest positive number of float16


def to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Integers int8 and a float16 scale of the last dimension, (..., n) -> (..., n), (..., 1)."""
    exact = (x.abs().amax(-1, keepdim=True).float() / 127).clamp(_LEAST, 65504)
    scale = exact.half()
    # Where float16 rounded the scale down, take the next larger number. For the smallest scales the
    # rounding error is up to a third, and the largest elements would be clipped.
    scale = torch.where(scale < exact, scale.view(torch.int16) + 1, scale.view(torch.int16))
    scale = scale.view(torch.float16)
    return (x.float() / scale.float()).round_().clamp_(-127, 127).to(torch.int8), scale


def from_int8(integers: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """What the integers stand for."""
    return integers.to(dtype) * scale.to(dtype)


class QuantizedStore(TensorStore):
    """Keys and values as int8, with a float16 scale for each token and KV head; read as `dtype`.

    It is two static stores, one of integers and one of scales. A row reads its own key and value
    in 8 bits too, so a token's result is the same in a long prompt and in a pass of one row.
    """

    def __init__(
        self, config: ModelConfig, slots: int, capacity: int, dtype: torch.dtype, device: Device
    ) -> None:
        self.capacity = capacity
        self._integers = StaticStore(config, slots, capacity, torch.int8, device)
        self.shape = CacheShape.of(config, dtype, self._integers.shape.device)
        one = replace(config, head_dim=1)
        self._scales = StaticStore(one, slots, capacity, torch.float16, device)

    def append(self, layer: int, rows: Rows, keys: Tensor, values: Tensor) -> None:
        (key_levels, key_scale), (value_levels, value_scale) = to_int8(keys), to_int8(values)
        self._integers.append(layer, rows, key_levels, value_levels)
        self._scales.append(layer, rows, key_scale, value_scale)

    def read(self, layer: int, span: Span) -> KeysValues:
        levels, scales = self._integers.read(layer, span), self._scales.read(layer, span)
        return KeysValues(
            from_int8(levels.keys, scales.keys, self.shape.dtype),
            from_int8(levels.values, scales.values, self.shape.dtype),
            levels.positions,
        )

    def truncate(self, slot: int, length: int) -> None:
        """Nothing to do: later rows overwrite the dropped ones."""

    def move(self, slot: int, source: int, target: int) -> None:
        for store in (self._integers, self._scales):
            store.move(slot, source, target)

    def copy(self, source: int, target: int, length: int) -> None:
        for store in (self._integers, self._scales):
            store.copy(source, target, length)

    @property
    def nbytes(self) -> int:
        return self._integers.nbytes + self._scales.nbytes


class QuantizedCache(Cache):
    """A cache of fixed capacity in 8 bits."""

    store: QuantizedStore

    def __init__(
        self,
        config: ModelConfig,
        slots: int = 1,
        capacity: int = 2048,
        dtype: torch.dtype = torch.float32,
        device: Device = "cpu",
    ) -> None:
        super().__init__(QuantizedStore(config, slots, capacity, dtype, device), slots)
