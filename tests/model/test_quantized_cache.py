"""The 8-bit cache under random operations, against lists; and how near it stays."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.stateful import invariant

from labkit.model.cache.protocol import CacheError
from labkit.model.cache.quantized import QuantizedCache, from_int8, to_int8
from labkit.model.rows import Rows, Span
from tests.model.test_cache import CAPACITY, CONFIG, SLOTS, CacheMachine, bounded, vectors
from tests.tiny import tiny_decoder

# Keys and values, layers, KV heads, each head_dim bytes and a float16 scale.
TOKEN_BYTES = 2 * 2 * 2 * (3 + 2)


class QuantizedMachine(CacheMachine):
    """What is held is what the lists hold, after a way through 8 bits."""

    capacity = CAPACITY

    def make(self) -> QuantizedCache:
        return QuantizedCache(CONFIG, SLOTS, CAPACITY)

    def nbytes(self) -> int:
        return SLOTS * CAPACITY * TOKEN_BYTES

    @invariant()
    def holds_what_the_lists_hold(self) -> None:
        for slot, plain in enumerate(self.plain):
            assert self.cache.length(slot) == plain.length
            for layer in range(CONFIG.layers):
                held = self.cache.store.read(layer, Span(slot, 0, plain.length, 0))
                exact = vectors([mark for _, mark in plain.held], layer)
                keys = from_int8(*to_int8(exact), torch.float32).transpose(0, 1)
                assert held.positions.tolist() == [position for position, _ in plain.held]
                assert torch.equal(held.keys, keys)
                assert torch.equal(held.values, -keys)


TestQuantizedCache = QuantizedMachine.TestCase
TestQuantizedCache.settings = bounded


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20))
@example([9.999999747378752e-06])
def test_the_error_is_within_half_a_step(values: list[float]) -> None:
    x = torch.tensor(values)
    levels, scale = to_int8(x)
    assert levels.dtype == torch.int8
    error = (from_int8(levels, scale, torch.float32) - x).abs()
    # Half a step, and what float16 takes from a scale times the 127 steps there are.
    assert (error <= scale.float() * (0.5 + 127 * 2**-11) + 1e-6).all()


def test_nothing_stays_nothing() -> None:
    assert from_int8(*to_int8(torch.zeros(2, 3)), torch.float32).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_reads_back_in_the_dtype_asked_for(dtype: torch.dtype) -> None:
    cache = QuantizedCache(CONFIG, 1, 4, dtype)
    rows = Rows.prefill([1, 2])
    cache.reserve(rows)
    cache.store.append(0, rows, vectors([1, 2], 0).to(dtype), vectors([1, 2], 0).to(dtype))
    held = cache.store.read(0, rows.spans[0])
    assert held.keys.dtype == held.values.dtype == dtype


def test_a_decoder_over_it_is_near_and_its_chunks_agree() -> None:
    decoder = tiny_decoder()
    ids = list(range(40))
    exact = decoder(Rows.prefill(ids, all_logits=True), decoder.new_cache(1, 40))
    near = decoder(Rows.prefill(ids, all_logits=True), QuantizedCache(decoder.config, 1, 40))
    assert 0 < (near - exact).abs().max() < 0.05 * exact.abs().max()
    cache = QuantizedCache(decoder.config, 1, 40)
    chunks = [
        decoder(Rows.prefill(ids[at : at + 13], start=at, all_logits=True), cache)
        for at in range(0, 40, 13)
    ]
    assert torch.allclose(torch.cat(chunks), near, atol=2e-2 * float(near.abs().max()))


def test_a_full_cache_says_so() -> None:
    with pytest.raises(CacheError, match="would hold 6 tokens, the cache has room for 5"):
        QuantizedCache(CONFIG, 1, 5).reserve(Rows.prefill([0] * 6))
