"""Rows in a tree: each path through it comes out as it would as a chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from labkit.model.cache.growing import GrowingCache
from labkit.model.cache.protocol import CacheError
from labkit.model.cache.window import SlidingWindowCache
from labkit.model.rows import Rows, Span, depths
from labkit.optimize.fused import FusedDecoder, load_fused
from labkit.optimize.quantization import WithQuantizedCache
from tests.conftest import Tiny
from tests.fused_helpers import tiny_gguf
from tests.tiny import whole

IDS = [(7 * n * n + 3 * n) % 97 for n in range(300)]
TREE = [-1, 0, 1, 0, 3, 1]
Same = Callable[[Tensor, Tensor], bool]


@st.composite
def trees(draw: st.DrawFn) -> list[int]:
    """Parents of up to 12 rows."""
    count = draw(st.integers(1, 12))
    return [-1, *(draw(st.integers(0, row - 1)) for row in range(1, count))]


def check(decoder: Any, cache: Any, context: int, parents: list[int], same: Same) -> None:
    """A tree after a context in slot 0, beside a chain in slot 1: every row, and what is kept."""
    tokens = IDS[150 : 150 + len(parents)]
    decoder(Rows.prefill(IDS[:context]), cache)
    rows = Rows.of([whole(0, context, tokens, parents), whole(1, 0, IDS[:5])])
    found = decoder(rows, cache)
    span = rows.spans[0]
    for row in range(span.count):
        path = [tokens[n] for n in span.path(row)]
        fresh = decoder.new_cache(1, 300)
        decoder(Rows.prefill(IDS[:context]), fresh)
        chain = decoder(Rows.of([whole(0, context, path)]), fresh)
        assert same(found[row], chain[-1])
    cache.keep(0, context, span.path(span.count - 1))
    assert cache.length(0) == context + len(path)
    more = [whole(0, context + len(path), IDS[200:203])]
    assert same(decoder(Rows.of(more), cache), decoder(Rows.of(more), fresh))


def near(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=2e-4, rtol=0)


@given(parents=trees(), context=st.integers(1, 20))
@settings(max_examples=15, deadline=None)
def test_the_plain_decoder_reads_trees(llama: Tiny, parents: list[int], context: int) -> None:
    for cache in (
        llama.model.decoder.new_cache(2, 100),
        GrowingCache(llama.model.decoder.config, 2),
    ):
        check(llama.model.decoder, cache, context, parents, near)


def test_an_8_bit_cache_reads_trees(llama: Tiny) -> None:
    decoder = WithQuantizedCache(llama.model.decoder)
    check(decoder, decoder.new_cache(2, 100), 10, TREE, near)


def test_the_models_own_window_counts_positions_not_places(llama: Tiny) -> None:
    from dataclasses import replace

    before = llama.model.decoder.config
    try:
        for layer in llama.model.decoder.layers:
            layer.self_attn.config = replace(before, sliding_window=3)
        check(llama.model.decoder, llama.model.decoder.new_cache(2, 100), 10, TREE, near)
    finally:
        for layer in llama.model.decoder.layers:
            layer.self_attn.config = before


@pytest.fixture(scope="module", params=[0, 5])
def fused(request: Any, tmp_path_factory: Any) -> FusedDecoder:
    from dataclasses import replace

    file = tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", "llama", "Q4_1")
    found = load_fused(file, threads=2)
    if not request.param:
        return found
    packed = found.packed
    narrow = replace(packed, config=replace(packed.config, sliding_window=request.param))
    return FusedDecoder(narrow)


@given(parents=trees(), context=st.integers(1, 140))
@settings(max_examples=20, deadline=None)
def test_the_fused_decoder_reads_trees_to_the_bit(
    fused: FusedDecoder, parents: list[int], context: int
) -> None:
    check(fused, fused.new_cache(2, 200), context, parents, torch.equal)


def test_paths_that_lead_outside_are_refused_by_the_kernel(fused: FusedDecoder) -> None:
    cache = fused.new_cache(1, 16)
    span = Span(0, 0, 3, 0, (-1, 0, 0))
    rows = Rows.of([whole(0, 0, IDS[:3], [-1, 0, 0])])
    wrong = list(rows.at)
    wrong[2] = 2
    with pytest.raises(CacheError, match="where their slots end"):
        fused(Rows(rows.ids, wrong, rows.asked, (span,)), cache)
    assert cache.length(0) == 0


@pytest.mark.parametrize("parents", [[0], [-1, -1], [-1, 1], [-1, 0, 5], [-1, -2]])
def test_what_is_no_tree_is_refused(parents: list[int]) -> None:
    with pytest.raises(ValueError, match="as its parent"):
        depths(parents)


def test_a_tree_has_a_parent_for_every_token() -> None:
    with pytest.raises(ValueError, match="2 parents for 3 tokens"):
        Rows.of([whole(0, 0, [1, 2, 3], [-1, 0])])


def test_a_window_of_the_cache_takes_no_tree_and_keeps_no_path(llama: Tiny) -> None:
    cache = SlidingWindowCache(llama.model.decoder.config, window=8)
    with pytest.raises(CacheError, match="not in a tree"):
        llama.model.decoder(Rows.of([whole(0, 0, [1, 2, 3], [-1, 0, 0])]), cache)
    assert cache.length(0) == 0


@pytest.mark.parametrize("rows", [[1, 0], [0, 0], [0, 4], [-1]])
def test_keeping_rows_that_are_not_there_is_refused(llama: Tiny, rows: list[int]) -> None:
    cache = llama.model.decoder.new_cache(1, 16)
    llama.model.decoder(Rows.prefill(IDS[:9]), cache)
    with pytest.raises(CacheError, match="cannot keep rows"):
        cache.keep(0, 5, rows)
    assert cache.length(0) == 9
