"""A decoder over an 8-bit KV cache: fewer bytes to read for a token, at a price in answers."""

from __future__ import annotations

from torch import Tensor

from labkit.model.cache.quantized import QuantizedCache
from labkit.model.cache.table import Cache
from labkit.model.decoder import Decoder
from labkit.model.rows import Rows
from labkit.model.weights import read_bytes


class WithQuantizedCache:
    """A decoder as it is, with an 8-bit cache in place of its own. It fits the forward contract."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.config = decoder, decoder.config

    @property
    def weight_bytes(self) -> float:
        """Those of the decoder."""
        return read_bytes(self.decoder)

    def __call__(self, rows: Rows, cache: Cache) -> Tensor:
        """Logits of the wanted rows, (wanted, vocab) float32."""
        logits: Tensor = self.decoder(rows, cache)
        return logits

    def new_cache(self, slots: int, capacity: int) -> QuantizedCache:
        """An 8-bit cache that reads as the decoder's dtype."""
        return QuantizedCache(self.config, slots, capacity, self.decoder.dtype, self.decoder.device)
