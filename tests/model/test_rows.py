"""Parts and rows: what is refused, embeddings in place of tokens, rows that see all of a span."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from labkit.model.attention import rotate
from labkit.model.cache.growing import GrowingCache
from labkit.model.cache.protocol import CacheError
from labkit.model.cache.quantized import QuantizedCache
from labkit.model.cache.static import StaticCache
from labkit.model.cache.table import Cache
from labkit.model.cache.window import SlidingWindowCache
from labkit.model.decoder import Decoder
from labkit.model.rows import Part, Rows
from labkit.optimize.graph_rewriting import StaticShapes, tabulate_rope
from tests.tiny import tiny_decoder, whole

IDS = [(7 * n * n + 3 * n) % 97 for n in range(60)]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tokens": []}, "slot 2 has no tokens"),
        ({"wanted": 4}, "4 of 3 rows are wanted; allowed are 0 to 3"),
        ({"wanted": -1}, "-1 of 3 rows"),
        ({"parents": (-1, 0)}, "2 parents for 3 tokens"),
        ({"parents": (-1, 0, 2)}, "row 2 of a tree cannot have row 2 as its parent"),
        ({"parents": (-1, 0, 0), "causal": False}, "a tree is causal"),
        ({"embeddings": torch.zeros(2, 48)}, "2 embeddings for 3 rows"),
        ({"streams": torch.zeros(2, 48)}, "room for 2 rows; the part has 3"),
    ],
)
def test_a_part_that_makes_no_rows_is_refused(given: dict[str, Any], words: str) -> None:
    fine: dict[str, Any] = {"slot": 2, "start": 0, "tokens": IDS[:3]}
    Rows.of([Part(**fine)])
    with pytest.raises(ValueError, match=words):
        Rows.of([Part(**fine | given)])


def test_a_slot_appears_once_in_a_pass() -> None:
    with pytest.raises(ValueError, match="only once"):
        Rows.of([Part(0, 0, IDS[:2]), Part(0, 2, IDS[2:3])])


def test_rows_stand_part_after_part_and_the_last_of_each_are_wanted() -> None:
    rows = Rows.of(
        [Part(1, 4, [5, 6, 7], 2), Part(0, 0, [8], 0), whole(2, 3, [1, 2, 3], (-1, 0, 0))]
    )
    assert rows.tokens.tolist() == [5, 6, 7, 8, 1, 2, 3]
    assert rows.positions.tolist() == [4, 5, 6, 0, 3, 4, 4]
    assert rows.wanted.tolist() == [1, 2, 4, 5, 6]
    assert [span.rows for span in rows.spans] == [slice(0, 3), slice(3, 4), slice(4, 7)]


@pytest.mark.parametrize("count", [1, 9])
def test_embeddings_of_the_tokens_give_the_logits_of_the_tokens(count: int) -> None:
    decoder = tiny_decoder()
    table = decoder.embed_tokens.weight
    caches = [decoder.new_cache(2, 40) for _ in range(2)]
    for start in (0, count):  # a second pass goes on after embeddings
        tokens = IDS[start : start + count]
        given = whole(0, start, [0] * count, embeddings=table[tokens])
        beside = whole(1, start, IDS[20 + start : 20 + start + count])
        found = decoder(Rows.of([beside, given]), caches[0])
        expected = decoder(Rows.of([beside, whole(0, start, tokens)]), caches[1])
        assert torch.equal(found, expected)


@pytest.mark.parametrize("make", [StaticShapes, tabulate_rope])
def test_a_rewritten_decoder_reads_embeddings_too(make: Any) -> None:
    decoder = tiny_decoder()
    made = make(decoder)
    part = Part(0, 0, [0], embeddings=decoder.embed_tokens.weight[IDS[3:4]])
    found = made(Rows.of([part]), made.new_cache(1, 8))
    expected = decoder(Rows.of([Part(0, 0, IDS[3:4])]), decoder.new_cache(1, 8))
    torch.testing.assert_close(found, expected)
    nothing = made(Rows.of([Part(0, 0, [1], 0)]), made.new_cache(1, 8))
    assert nothing.shape == (0, 97)


def reference(decoder: Decoder, ids: list[int], sees: Tensor) -> Tensor:
    """Logits (n, vocab) by attention written out; sees (n, n) bool."""
    config, at = decoder.config, torch.arange(len(ids))
    cos, sin = decoder.rope(at)
    x = decoder.embed_tokens(torch.tensor(ids))
    for layer in decoder.layers:
        attention, normed = layer.self_attn, layer.input_layernorm(x)
        queries = rotate(attention.q_proj(normed).view(len(ids), -1, config.head_dim), cos, sin)
        keys = rotate(attention.k_proj(normed).view(len(ids), -1, config.head_dim), cos, sin)
        values = attention.v_proj(normed).view(len(ids), -1, config.head_dim)
        heads = []
        for head in range(config.heads):
            own = head // config.group
            scores = queries[:, head] @ keys[:, own].T / config.head_dim**0.5
            weights = scores.masked_fill(~sees, -torch.inf).softmax(-1)
            heads.append(weights @ values[:, own])
        x = x + attention.o_proj(torch.cat(heads, -1))
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return decoder.head(x)


def seen(before: int, count: int, after: int, window: int | None, sinks: int) -> Tensor:
    """Causal rows, `count` rows that see each other, causal rows; with a window where given."""
    total = before + count + after
    row, key = torch.arange(total)[:, None], torch.arange(total)[None]
    mask = key <= row
    if window is not None:
        mask &= (key > row - window) | (key < sinks)
    full = slice(before, before + count)
    mask[full, full] = True
    return mask


def check(
    decoder: Decoder,
    cache: Cache,
    sees: Tensor,
    before: int,
    count: int,
    after: int,
) -> None:
    """A causal part, one that is not, and rows after it, against attention written out."""
    found = []
    for start, stop, causal in (
        (0, before, True), (before, before + count, False),
        *((n, n + 1, True) for n in range(before + count, before + count + after)),
    ):  # fmt: skip
        if stop > start:
            part = whole(0, start, IDS[start:stop], causal=causal)
            found.append(decoder(Rows.of([part]), cache))
    expected = reference(decoder, IDS[: before + count + after], sees)
    torch.testing.assert_close(torch.cat(found), expected, atol=2e-4, rtol=1e-4)


few = st.integers(0, 6)


@given(few, st.integers(1, 9), few, st.sampled_from([None, 1, 3, 7, 30]))
@settings(max_examples=40, deadline=None)
def test_rows_that_are_not_causal_see_their_whole_span(
    before: int, count: int, after: int, window: int | None
) -> None:
    decoder = tiny_decoder(sliding_window=window)
    sees = seen(before, count, after, window, 0)
    for cache in (decoder.new_cache(1, 40), GrowingCache(decoder.config)):
        check(decoder, cache, sees, before, count, after)


@given(st.integers(0, 12), st.integers(1, 9), few, st.integers(1, 8), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_and_so_they_do_in_a_cache_with_a_window(
    before: int, count: int, after: int, window: int, sinks: int
) -> None:
    decoder = tiny_decoder()
    cache = SlidingWindowCache(decoder.config, window, sinks)
    check(decoder, cache, seen(before, count, after, window, sinks), before, count, after)


OTHERS = {
    "layers": {"layers": 3},
    "kv heads": {"kv_heads": 3},
    "head size": {"head_dim": 16},
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize(
    "make",
    [StaticCache, GrowingCache, QuantizedCache, lambda config: SlidingWindowCache(config, 9)],
)
def test_a_cache_of_another_model_is_refused_before_anything_is_written(
    other: str, make: Any
) -> None:
    decoder = tiny_decoder()
    cache = make(tiny_decoder(**OTHERS[other]).config)
    for one in (decoder, StaticShapes(decoder)):
        with pytest.raises(CacheError, match="the model needs 2 layers of 2 KV heads of 8"):
            one(Rows.of([Part(0, 0, IDS[:1])]), cache)
    assert cache.length(0) == 0


def test_a_cache_of_another_dtype_is_refused() -> None:
    decoder = tiny_decoder()
    cache = decoder.to(torch.bfloat16).new_cache(1, 8)
    with pytest.raises(CacheError, match="bfloat16 on cpu; the model needs .* float32 on cpu"):
        decoder.float()(Rows.prefill(IDS[:3]), cache)


@pytest.mark.parametrize("shape", [(3, 1), (3, 47), (3,), (3, 1, 48)])
def test_embeddings_of_another_width_are_refused(shape: tuple[int, ...]) -> None:
    decoder = tiny_decoder()
    cache = decoder.new_cache(1, 8)
    with pytest.raises(ValueError, match="for 3 rows of 48 numbers"):
        decoder(Rows.of([Part(0, 0, IDS[:3], embeddings=torch.ones(shape))]), cache)
    assert cache.length(0) == 0
