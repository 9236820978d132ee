"""Likeliest tokens without logits: greedy steps, chains and trees."""

from __future__ import annotations

import pytest
import torch

from labkit.engine.generate import generate
from labkit.model.cache.protocol import CacheError
from labkit.model.rows import Part, Rows
from tests.fused_helpers import leave_alone, logits
from tests.tiny import whole

IDS = [(7 * n * n + 3 * n) % 97 for n in range(300)]  # long enough for three chunks
TREE = [-1, 0, 0, 1, 2, 4, 3]


def test_a_greedy_step_is_the_likeliest_of_the_logits(case):
    _, fused = case
    by_logits = list(generate(fused, IDS[:7], 60, sampler=lambda row: int(row.argmax())))
    assert list(generate(fused, IDS[:7], 60)) == by_logits


def test_a_greedy_step_goes_to_the_end_of_its_slot(fused):
    cache, other = (fused.new_cache(2, 16) for _ in range(2))
    for each in (cache, other):
        fused(Rows.prefill(IDS[:5], slot=1), each)
    expected, stream = fused.traced(Rows.prefill([IDS[5]], slot=1, start=5), other)
    streams = torch.zeros(6, stream.shape[1])
    assert fused.greedy([Part(1, 5, [IDS[5]], streams=streams)], cache) == [[expected.argmax()]]
    cache.truncate(1, 5)
    assert fused.greedy([Part(1, 5, [IDS[5]])], cache) == [[expected.argmax()]]
    assert torch.equal(streams[:1], stream)
    assert not streams[1:].any()
    assert (cache.length(0), cache.length(1)) == (0, 6)
    assert torch.equal(cache.store.keys, other.store.keys)


def test_a_greedy_step_refuses_what_a_pass_refuses(fused):
    cache = fused.new_cache(1, 6)
    fused(Rows.prefill(IDS[:5]), cache)
    with pytest.raises(IndexError, match=r"0\.\.96"):
        fused.greedy([Part(0, 5, [97])], cache)
    for wrong in (
        torch.zeros(0, 64), torch.zeros(9, 65), torch.zeros(9, 64).double(), torch.zeros(64),
        torch.zeros(64, 9).T,
    ):  # fmt: skip
        with pytest.raises(ValueError, match="64 float32 each"):
            fused.greedy([Part(0, 5, [1], streams=wrong)], cache)
    for wanted in (2, -1):
        with pytest.raises(ValueError, match="allowed are 0 to 1"):
            fused.greedy([Part(0, 5, [1], wanted)], cache)
    with pytest.raises(ValueError, match="at least one"):
        fused.greedy([Part(0, 5, [])], cache)
    with pytest.raises(CacheError, match="go on there"):
        fused.greedy([Part(0, 4, [1])], cache)
    assert cache.length(0) == 5
    with pytest.raises(CacheError, match="slot 3"):
        fused.greedy([Part(3, 0, [1])], cache)
    fused.greedy([Part(0, 5, [1])], cache)
    with pytest.raises(CacheError, match="room for 6"):
        fused.greedy([Part(0, 6, [1])], cache)
    assert cache.length(0) == 6


def test_greedy_over_several_parts_is_the_argmax_of_their_logits(case):
    """A chain of which all is wanted, a prompt, a tree; streams for some of them."""
    _, fused = case
    cache, other = (fused.new_cache(4, 32) for _ in range(2))
    for each in (cache, other):
        fused(Rows.prefill(IDS[:9], slot=2), each)
    streams = [torch.zeros(16, fused.config.hidden_size) for _ in range(2)]
    parts = [
        whole(0, 0, IDS[:9], streams=streams[0]),
        Part(1, 0, IDS[20:25]),
        whole(2, 9, IDS[30:37], TREE, streams=streams[1]),
        Part(3, 0, IDS[40:44], wanted=0),
    ]
    rows = Rows.of(parts)
    logits, expected = fused.traced(rows, other)
    best = logits.argmax(-1).tolist()
    assert fused.greedy(parts, cache) == [best[:9], best[9:10], best[10:], []]
    assert torch.equal(streams[0][:9], expected[:9])
    assert torch.equal(streams[1][:7], expected[14:21])
    assert not streams[0][9:].any()
    assert not streams[1][7:].any()
    assert torch.equal(cache.store.keys, other.store.keys)
    bare = [Part(part.slot, 0, IDS[:3]) for part in parts[:2]]
    cache = fused.new_cache(2, 8)
    assert len(fused.greedy(bare, cache)) == 2
    assert [cache.length(0), cache.length(1)] == [3, 3]


def test_greedy_over_several_parts_refuses_all_or_none(fused):
    cache = fused.new_cache(2, 16)
    with pytest.raises(IndexError, match=r"0\.\.96"):
        fused.greedy([Part(0, 0, [1, 2]), Part(1, 0, [99])], cache)
    wrong = torch.zeros(1, 64)
    with pytest.raises(ValueError, match="room for 1 rows; the part has 2"):
        fused.greedy([Part(0, 0, [1, 2], streams=wrong), Part(1, 0, [9])], cache)
    assert [cache.length(0), cache.length(1)] == [0, 0]
    assert not cache.store.keys.any()


def test_a_chain_goes_on_where_its_slot_ends(case):
    _, fused = case
    cache, other = (fused.new_cache(2, 20) for _ in range(2))
    for each in (cache, other):
        fused(Rows.prefill(IDS[:9], slot=1), each)
    streams = torch.zeros(20, fused.config.hidden_size)
    rows = Rows.prefill(IDS[9:16], slot=1, start=9, all_logits=True)
    logits, expected = fused.traced(rows, other)
    found = fused.greedy([whole(1, 9, IDS[9:16], streams=streams[9:])], cache)
    assert found == [logits.argmax(-1).tolist()]
    assert torch.equal(streams[9:16], expected)
    assert torch.equal(cache.store.keys, other.store.keys)
    with pytest.raises(CacheError, match="room for 20"):
        fused.greedy([whole(1, 16, IDS[:5])], cache)
    with pytest.raises(IndexError, match=r"0\.\.96"):
        fused.greedy([whole(1, 16, [1, 97])], cache)
    for wrong in ([0, 0], [-1, 1], [-1, -1], [-1, 2**40]):
        with pytest.raises(ValueError, match="follows none"):
            fused.greedy([whole(1, 16, [1, 2], wrong)], cache)
    for wrong in ([-1], [-1, 0, 1]):
        with pytest.raises(ValueError, match="parents for 2 tokens"):
            fused.greedy([whole(1, 16, [1, 2], wrong)], cache)
    assert cache.length(1) == 16


def test_a_tree_goes_on_where_its_slot_ends(case):
    _, fused = case
    cache, other = (fused.new_cache(1, 20) for _ in range(2))
    for each in (cache, other):
        fused(Rows.prefill(IDS[:9]), each)
    streams = torch.zeros(20, fused.config.hidden_size)
    logits, expected = fused.traced(Rows.of([whole(0, 9, IDS[9:16], TREE)]), other)
    found = fused.greedy([whole(0, 9, IDS[9:16], TREE, streams=streams[9:])], cache)
    assert found == [logits.argmax(-1).tolist()]
    assert torch.equal(streams[9:16], expected)
    assert torch.equal(cache.store.keys, other.store.keys)


def test_the_first_thread_alone_computes_the_same(case):
    """As on a busy machine, where waiting for others would take longer."""
    _, fused = case
    together = list(generate(fused, IDS[:7], 20)), logits(fused, IDS)
    leave_alone(fused, 10**6)
    try:
        alone = list(generate(fused, IDS[:7], 20)), logits(fused, IDS)
    finally:
        leave_alone(fused, 0)
    assert alone[0] == together[0]
    assert torch.equal(alone[1], together[1])
    assert list(generate(fused, IDS[:7], 20)) == together[0]
