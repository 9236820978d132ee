"""The paged cache of the fused decoder: the bits of the contiguous one, wherever blocks lie."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.engine.generate import generate
from labkit.model.cache.blocks import NoBlocks
from labkit.model.cache.protocol import CacheError
from labkit.model.forward import Paged, offers
from labkit.model.rows import Part, Rows
from labkit.optimize.fused import FusedDecoder, load_fused
from tests.fused_helpers import fed_at_random, logits
from tests.model.test_trees import check, trees
from tests.optimize.fused.test_formats import RUN
from tests.paged_helpers import free_blocks, poison, scattered
from tests.tiny import whole

IDS = [(7 * n * n + 3 * n) % 97 for n in range(300)]  # long enough for three chunks
DTYPES = (torch.float16, torch.float32)


def read(decoder: Any, cache: Any, ids: list[int], chunk: int = 1000, slot: int = 0) -> Any:
    """Logits of every position, read in passes of `chunk` rows."""
    return torch.cat(
        [
            decoder(Rows.of([whole(slot, start, ids[start : start + chunk])]), cache)
            for start in range(0, len(ids), chunk)
        ]
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_a_row_has_the_bits_of_the_contiguous_cache(case, dtype, chunk):
    _, fused = case
    expected = read(fused, fused.new_cache(1, 300, dtype), IDS)
    assert torch.equal(read(fused, fused.new_paged_cache(2, 20, dtype), IDS, chunk), expected)
    cache = scattered(fused.new_paged_cache(2, 40, dtype), seed=chunk)
    assert torch.equal(read(fused, cache, IDS, chunk, slot=1), expected)
    assert torch.equal(read(fused, cache, IDS, chunk), expected)


@pytest.mark.parametrize("isa", RUN)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_instruction_set_reads_through_the_table(case, isa, dtype):
    file, fused = case
    other = load_fused(file, threads=3, isa=isa)
    expected = read(fused, fused.new_cache(1, 300, dtype), IDS)
    assert torch.equal(read(other, scattered(other.new_paged_cache(1, 20, dtype)), IDS), expected)


@pytest.mark.parametrize("window", [1, 8, 140])
def test_a_window_reads_through_the_table(fused, window):
    narrow = replace(fused.packed, config=replace(fused.config, sliding_window=window))
    other = FusedDecoder(narrow)
    for chunk in (1, 1000):
        found = read(other, scattered(other.new_paged_cache(1, 20)), IDS, chunk)
        assert torch.equal(found, logits(other, IDS))


@given(parents=trees(), context=st.integers(1, 140), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_trees_come_out_as_chains_do_in_the_contiguous_cache(fused, parents, context, seed):
    check(fused, scattered(fused.new_paged_cache(2, 14), seed), context, parents, torch.equal)


def both_caches(fused: FusedDecoder, dtype: torch.dtype, seed: int) -> tuple[Any, Any]:
    return fused.new_cache(4, 200, dtype), scattered(fused.new_paged_cache(4, 52, dtype), seed)


def a_part(data: Any, slot: int, start: int) -> Part:
    """Any rows: a chain, a tree, or rows that see each other."""
    kind = data.draw(st.sampled_from(["chain", "chain", "tree", "together"]))
    parents = data.draw(trees()) if kind == "tree" else []
    count = len(parents) or data.draw(st.integers(1, 40))
    return whole(slot, start, IDS[start : start + count], parents, causal=kind != "together")


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_operations_leave_the_bits_of_the_contiguous_cache(fused, data):
    """Passes over several slots, forks, truncations and kept paths; memory given back is NaN."""
    dtype = data.draw(st.sampled_from(DTYPES))
    flat, cache = both_caches(fused, dtype, data.draw(st.integers(0, 99)))
    for _ in range(data.draw(st.integers(1, 10))):
        slot = data.draw(st.integers(0, 3))
        length = cache.length(slot)
        what = data.draw(st.sampled_from(["pass", "pass", "pass", "fork", "truncate", "keep"]))
        if what == "pass":
            slots = data.draw(st.sets(st.integers(0, 3), min_size=1))
            rows = Rows.of(
                [a_part(data, n, cache.length(n)) for n in slots if cache.length(n) < 150]
            )
            if rows.ids:
                assert torch.equal(fused(rows, cache), fused(rows, flat))
        elif what == "fork" and any(not cache.length(n) for n in range(4) if n != slot):
            assert cache.fork(slot) == flat.fork(slot)
        elif what == "truncate":
            to = data.draw(st.integers(0, length))
            cache.truncate(slot, to)
            flat.truncate(slot, to)
        elif what == "keep" and length:
            start = data.draw(st.integers(0, length - 1))
            kept = sorted(data.draw(st.sets(st.integers(0, length - start - 1), max_size=20)))
            cache.keep(slot, start, kept)
            flat.keep(slot, start, kept)
        cache.check()
        poison(cache, free_blocks(cache))


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_batch_invariance_over_shared_blocks(fused, data):
    """Slots that begin with one prefix, and share its blocks, come out as each does alone."""
    cache = scattered(fused.new_paged_cache(4, 40), data.draw(st.integers(0, 99)))
    blocks = data.draw(st.integers(1, 9))
    prefix = IDS[: 16 * blocks]
    fused(Rows.prefill(prefix), cache)
    texts = [[*prefix, *IDS[17 * n : 17 * n + data.draw(st.integers(1, 30))]] for n in range(4)]
    for slot in (1, 2, 3):
        cache.adopt(slot, cache.blocks(0), len(prefix))
    found = fed_at_random(fused, cache, texts, data, cache.check)
    for text, rows_found in zip(texts, found, strict=True):
        assert torch.equal(rows_found, logits(fused, text)[len(prefix) :])


def test_greedy_and_generate_take_a_paged_cache(case):
    _, fused = case
    cache = scattered(fused.new_paged_cache(1, 12))
    expected = list(generate(fused, IDS[:100], 60))
    assert list(generate(fused, IDS[:100], 60, cache=cache)) == expected
    cache.truncate(0, 90)
    (found,) = fused.greedy([whole(0, 90, IDS[90:94], [-1, 0, 0, 2])], cache)
    flat = fused.new_cache(1, 100)
    fused(Rows.prefill(IDS[:90]), flat)
    assert fused.greedy([whole(0, 90, IDS[90:94], [-1, 0, 0, 2])], flat) == [found]


def test_blocks_go_through_bytes_unchanged(fused):
    for dtype in DTYPES:
        cache, other = (fused.new_paged_cache(1, 6, dtype) for _ in range(2))
        expected = read(fused, cache, IDS[:64])
        assert other.store.layout == cache.store.layout
        blocks = scattered(other).book.allocate(4)
        for block, source in zip(blocks, cache.blocks(0), strict=True):
            content = cache.store.read_block(source)
            assert len(content) == 16 * fused.config.kv_bytes_per_token(dtype.itemsize)
            other.store.write_block(block, content)
            assert other.store.read_block(block) == content
        other.adopt(0, blocks, 64)
        rows = Rows.of([whole(0, 64, IDS[64:70])])
        assert torch.equal(fused(rows, other), fused(rows, cache))
        flat = fused.new_cache(1, 64, dtype)
        assert torch.equal(expected, read(fused, flat, IDS[:64]))
        with pytest.raises(CacheError, match="bytes for a block"):
            other.store.write_block(blocks[0], content + b"0")


def test_a_pass_without_room_is_refused_and_changes_nothing(fused):
    cache = fused.new_paged_cache(2, 4)
    fused(Rows.prefill(IDS[:33]), cache)
    keys, values = cache.store.keys.clone(), cache.store.values.clone()
    for run in (
        lambda: fused(Rows.prefill(IDS[:17], slot=1), cache),
        lambda: fused.greedy([Part(1, 0, IDS[:17])], cache),
        lambda: fused(Rows.of([Part(0, 33, IDS[:5]), Part(1, 0, IDS[:17])]), cache),
    ):
        with pytest.raises(NoBlocks, match="2 blocks are needed, 1 of 4 can be had"):
            run()
        cache.check()
    assert not cache.takes(1, 17)
    assert cache.takes(1, 16)
    with pytest.raises(IndexError):
        fused(Rows.prefill([5, 97], slot=1), cache)
    assert (cache.length(0), cache.length(1), cache.room) == (33, 0, 1)
    assert torch.equal(cache.store.keys, keys)
    assert torch.equal(cache.store.values, values)


@pytest.mark.parametrize("block", [-1, 4, 2**31 - 1])
def test_a_table_that_leads_outside_is_refused_by_the_kernel(fused, block):
    cache = fused.new_paged_cache(1, 4)
    fused(Rows.prefill(IDS[:20]), cache)
    cache.store.point(0, 0, block)
    for run in (
        lambda: fused(Rows.prefill(IDS[20:23], start=20), cache),
        lambda: fused.greedy([Part(0, 20, IDS[20:23])], cache),
    ):
        with pytest.raises(CacheError, match="blocks that it does not have"):
            run()
    assert cache.length(0) == 20


def test_a_paged_cache_of_another_model_is_refused(files, fused):
    other = load_fused(files("llama-mha", "Q4_0"), threads=2)
    with pytest.raises(CacheError, match="one of another model"):
        fused(Rows.prefill(IDS[:4]), other.new_paged_cache(1, 2))
    with pytest.raises(CacheError, match="float16 or float32"):
        fused.new_paged_cache(1, 2, torch.bfloat16)
    with pytest.raises(CacheError, match="at least one slot and one block"):
        fused.new_paged_cache(0, 2)


def test_the_fused_decoder_offers_it(fused):
    paged = offers(fused, Paged)
    assert paged is not None
    assert paged.new_paged_cache(2, 50).capacity == 512  # the model's context
