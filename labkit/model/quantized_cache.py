"""A KV cache in 8 bits: a quarter of float32's bytes, or half of 16 bits', at a price in answers.

Each token's key and value of each KV head has a scale of its own, so that a row can be written,
taken back or copied without touching another. KIVI (2402.02750) shows that 2 bits need keys
scaled by channel over many tokens; at 8 bits a scale a token does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from labkit.model.cache import Held, StaticCache
from labkit.model.config import ModelConfig
from labkit.model.decoder import Decoder
from labkit.model.rows import Rows, Span

_LEAST = 2.0**-24  # the smallest number that float16 tells from nothing


def to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Integers int8 and a float16 scale of the last dimension, (..., n) -> (..., n), (..., 1)."""
    exact = (x.abs().amax(-1, keepdim=True).float() / 127).clamp(_LEAST, 65504)
    scale = exact.half()
    # The next float16 where that is less: among the smallest it may be so by a third, and the
    # largest numbers would be cut.
    scale = torch.where(scale < exact, scale.view(torch.int16) + 1, scale.view(torch.int16))
    scale = scale.view(torch.float16)
    return (x.float() / scale.float()).round_().clamp_(-127, 127).to(torch.int8), scale


def from_int8(integers: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """What the integers stand for."""
    return integers.to(dtype) * scale.to(dtype)


class QuantizedCache:
    """Keys and values as int8 with a float16 scale a token and KV head; read as `dtype`.

    Two static caches, one of integers and one of scales. What a row reads, its own key and value
    included, has been through 8 bits, so that a token's result does not depend on when it came.
    """

    window: int | None = None
    sinks: int = 0

    def __init__(
        self,
        config: ModelConfig,
        slots: int = 1,
        capacity: int = 2048,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self._integers = StaticCache(config, slots, capacity, torch.int8, device)
        one = replace(config, head_dim=1)
        self._scales = StaticCache(one, slots, capacity, torch.float16, device)
        self.slots, self.capacity, self.dtype = slots, capacity, dtype

    def reserve(self, rows: Rows) -> None:
        self._integers.reserve(rows)
        self._scales.reserve(rows)

    def append(self, layer: int, rows: Rows, keys: Tensor, values: Tensor) -> None:
        (key_levels, key_scale), (value_levels, value_scale) = to_int8(keys), to_int8(values)
        self._integers.append(layer, rows, key_levels, value_levels)
        self._scales.append(layer, rows, key_scale, value_scale)

    def read(self, layer: int, span: Span) -> Held:
        levels, scales = self._integers.read(layer, span), self._scales.read(layer, span)
        return Held(
            from_int8(levels.keys, scales.keys, self.dtype),
            from_int8(levels.values, scales.values, self.dtype),
            levels.positions,
        )

    def truncate(self, slot: int, length: int) -> None:
        self._integers.truncate(slot, length)
        self._scales.truncate(slot, length)

    def keep(self, slot: int, start: int, rows: Sequence[int]) -> None:
        self._integers.keep(slot, start, rows)
        self._scales.keep(slot, start, rows)

    def fork(self, slot: int) -> int:
        self._scales.fork(slot)
        return self._integers.fork(slot)

    def length(self, slot: int) -> int:
        return self._integers.length(slot)

    @property
    def nbytes(self) -> int:
        return self._integers.nbytes + self._scales.nbytes


class WithQuantizedCache:
    """A decoder as it is, over an 8-bit cache: speaks the forward contract."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.config = decoder, decoder.config

    def __call__(self, rows: Rows, cache: QuantizedCache) -> Tensor:
        return self.decoder(rows, cache)

    def new_cache(self, slots: int, capacity: int) -> QuantizedCache:
        """An 8-bit cache that reads as the decoder's dtype."""
        return QuantizedCache(self.config, slots, capacity, self.decoder.dtype, self.decoder.device)
