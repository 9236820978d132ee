"""The prefix cache with the fused decoder: what broke in other engines, by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from labkit.engine.generate import generate
from labkit.engine.prefix import PrefixCache, PrefixKey
from labkit.model.cache.blocks import NoBlocks
from labkit.model.cache.paged import PagedCache
from labkit.model.cache.protocol import CacheError
from labkit.model.rows import Part, Rows
from labkit.optimize.fused import FusedDecoder, load_fused
from tests.engine.test_prefix_random import Memory
from tests.fused_helpers import logits, tiny_gguf
from tests.paged_helpers import free_blocks, poison, scattered
from tests.tiny import whole

IDS = [(7 * n * n + 3 * n) % 97 for n in range(300)]
KEY = PrefixKey("tiny", "0123")


@pytest.fixture(scope="module")
def fused(tmp_path_factory: Any) -> FusedDecoder:
    file = tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", "llama", "Q4_1")
    return load_fused(file, threads=2)


def made(fused: FusedDecoder, blocks: int = 24, **more: Any) -> PrefixCache:
    return PrefixCache(scattered(fused.new_paged_cache(4, blocks)), KEY, **more)


def serve(
    fused: FusedDecoder, prefix: PrefixCache, ids: list[int], slot: int = 0, key: Any = None
) -> tuple[int, Tensor]:
    """Read a prompt in an empty slot, with what is cached of it; how much that was, and the logits
    of all rows that were computed."""
    cache = prefix.cache
    found = prefix.match(ids, key)
    start = 16 * len(found)
    cache.adopt(slot, found, start)
    out = fused(Rows.of([whole(slot, start, ids[start:])]), cache)
    prefix.publish(slot, ids, key)
    cache.check()
    prefix.check()
    return start, out


def again(fused: FusedDecoder, prefix: PrefixCache, ids: list[int], key: Any = None) -> int:
    """Serve a prompt and let it go; its rows must have the bits of the prompt alone."""
    start, out = serve(fused, prefix, ids, key=key)
    assert torch.equal(out, logits(fused, ids)[start:])
    prefix.cache.release(0)
    prefix.check()
    return start


def test_a_hit_has_the_bits_of_a_miss(fused: FusedDecoder) -> None:
    prefix = made(fused)
    assert again(fused, prefix, IDS[:200]) == 0
    assert again(fused, prefix, IDS[:200]) == 192
    assert again(fused, prefix, [*IDS[:100], *IDS[5:62]]) == 96
    assert prefix.counts.from_memory == 192 + 96
    assert prefix.counts.hit_rate == (192 + 96) / (200 + 200 + 157)


@pytest.mark.parametrize("length", [16, 17, 32, 48, 160])
def test_a_full_hit_leaves_a_row_to_ask(fused: FusedDecoder, length: int) -> None:
    """nano-vllm 144: with the whole prompt cached, no query row was left."""
    prefix = made(fused)
    again(fused, prefix, IDS[:length])
    assert len(prefix) == length // 16
    start, out = serve(fused, prefix, IDS[:length])
    assert start == (length - 1) // 16 * 16
    assert torch.equal(out, logits(fused, IDS[:length])[start:])


def test_prompts_of_no_block_find_nothing(fused: FusedDecoder) -> None:
    prefix = made(fused)
    again(fused, prefix, IDS[:40])
    assert prefix.match([]) == prefix.match(IDS[:1]) == prefix.match(IDS[:16]) == []


@pytest.mark.parametrize("digest", [lambda content: b"", lambda content: content[-1:]])
def test_hashes_that_collide_find_nothing_wrong(fused: FusedDecoder, digest: Any) -> None:
    """vllm PR 12621: a block was believed to be another with the same hash."""
    prefix = made(fused, digest=digest)
    other = [(token + 1) % 97 for token in IDS]
    for ids in (IDS[:100], other[:100], [*IDS[:16], *other[:80]], IDS[:100]):
        again(fused, prefix, ids)
    assert len(prefix) >= 1


def test_only_the_tokens_of_a_later_block_differ_under_one_hash(fused: FusedDecoder) -> None:
    prefix = made(fused, digest=lambda content: content[:40])  # of the key and little more
    again(fused, prefix, IDS[:64])
    assert again(fused, prefix, [*IDS[:16], *IDS[100:148]]) in (0, 16)


def test_no_field_of_a_key_is_taken_for_another(fused: FusedDecoder) -> None:
    """vllm 44701: a salt and an adapter of the same name shared blocks."""
    prefix = made(fused, blocks=60)
    keys = [
        KEY, replace(KEY, adapter="x"), replace(KEY, salt="x"), replace(KEY, weights="x"),
        replace(KEY, adapter="x", salt="x"), replace(KEY, adapter="xx"), replace(KEY, salt="xx"),
        PrefixKey("tiny0123", ""), PrefixKey("", "tiny0123"), PrefixKey("tiny0", "123"),
    ]  # fmt: skip
    assert len({key.encoded() for key in keys}) == len(keys)
    for key in keys:
        assert again(fused, prefix, IDS[:70], key) == 0
    for key in keys:
        assert again(fused, prefix, IDS[:70], key) == 64


def test_an_abort_within_a_chunked_prefill_leaves_no_freed_block(fused: FusedDecoder) -> None:
    """sglang 38319: blocks that the abort had freed stayed in the tree, and were found there."""
    prefix = made(fused, blocks=12)
    cache = prefix.cache
    for at in (0, 40, 80):  # three chunks, published one by one; then the client goes
        fused(Rows.of([whole(0, at, IDS[at : at + 40])]), cache)
        prefix.publish(0, IDS[:150])
    cache.extend(0, 30)  # the fourth chunk has its blocks, but no pass follows
    cache.release(0)
    cache.check()
    prefix.check()
    assert (len(prefix), cache.room, cache.book.held) == (7, 12, 0)
    poison(cache, free_blocks(cache))
    assert again(fused, prefix, IDS[:150]) == 112
    assert again(fused, prefix, [*IDS[150:200], *IDS[:140]]) == 0  # takes all blocks but one


def test_no_other_conversation_is_restored(fused: FusedDecoder) -> None:
    """llama.cpp 27148: a slot went on with the cache of another conversation. Here two of the same
    length and beginning take turns, through memory and disk."""
    prefix = made(fused, blocks=13, disk=Memory())  # there is room for one of them
    both = [[*IDS[:48], *IDS[60:172]], [*IDS[:48], *IDS[61:173]]]
    for turn in range(3):
        for number, text in enumerate(both):
            said = [*text, *IDS[100 * number : 100 * number + 10 * turn + 1]]
            assert again(fused, prefix, said) == (160 if turn else 48 * number)
    assert prefix.counts.from_disk > 0
    assert prefix.counts.evicted > 0


def test_a_request_that_was_preempted_hits_its_own_blocks(fused: FusedDecoder) -> None:
    """nano-vllm PR 211: preempted, then hit again."""
    prefix = made(fused)
    cache = prefix.cache
    expected = list(generate(fused, IDS[:50], 60))
    text = IDS[:50]
    while len(text) < 110:  # preempted after every eleventh token
        slot = len(text) % 4
        found = prefix.match(text)
        cache.adopt(slot, found, 16 * len(found))
        for _ in range(min(11, 110 - len(text))):
            at = cache.length(slot)
            ((token,),) = fused.greedy([Part(slot, at, text[at:])], cache)
            text.append(token)
        prefix.publish(slot, text)
        cache.release(slot)
        cache.check()
        prefix.check()
    assert text[50:] == expected


def test_a_block_in_use_is_never_evicted(fused: FusedDecoder) -> None:
    prefix = made(fused, blocks=8)
    cache = prefix.cache
    serve(fused, prefix, IDS[:64])
    serve(fused, prefix, IDS[100:148], slot=1)
    cache.release(1)  # three cached blocks, four held ones, a free one
    with pytest.raises(NoBlocks, match="5 blocks are needed, 4 of 8 can be had"):
        fused(Rows.prefill(IDS[:65], slot=2), cache)
    assert len(prefix) == 7  # nothing was evicted in vain
    fused(Rows.prefill(IDS[:64], slot=2), cache)
    assert len(prefix) == 4
    cache.release(2)
    more = fused(Rows.of([whole(0, 64, IDS[64:70])]), cache)
    assert torch.equal(more, logits(fused, IDS[:70])[64:])


def test_what_was_used_last_stays_longest_and_leaves_go_first(fused: FusedDecoder) -> None:
    prefix = made(fused, blocks=12)
    again(fused, prefix, IDS[:49])  # three blocks
    again(fused, prefix, IDS[100:149])  # three others
    again(fused, prefix, IDS[:49])  # the first again
    prefix.cache.extend(0, 16 * 8)  # two are evicted
    assert len(prefix.match(IDS[:49])) == 3
    assert len(prefix.match(IDS[100:149])) == 1
    prefix.cache.extend(0, 16)  # one more, of those that were looked up first
    assert len(prefix.match(IDS[:49])) == 2
    assert len(prefix.match(IDS[100:149])) == 1


def test_equal_prompts_read_at_once_share_their_blocks_afterwards(fused: FusedDecoder) -> None:
    prefix = made(fused)
    cache = prefix.cache
    fused(Rows.of([Part(slot, 0, IDS[:70]) for slot in range(3)]), cache)
    assert cache.book.held == 15
    assert [prefix.publish(slot, IDS[:70]) for slot in range(3)] == [4, 0, 0]
    assert cache.book.held == 4 + 3
    cache.check()
    found = fused(Rows.of([whole(slot, 70, IDS[70:80]) for slot in range(3)]), cache)
    assert torch.equal(found, logits(fused, IDS[:80])[70:].repeat(3, 1))


def test_a_fork_that_holds_a_block_without_its_parent_loses_nothing(fused: FusedDecoder) -> None:
    prefix = made(fused, blocks=10)
    cache = prefix.cache
    fused(Rows.of([Part(slot, 0, IDS[:40]) for slot in (0, 1)]), cache)
    copy = cache.fork(1)
    prefix.publish(0, IDS[:16])
    prefix.publish(1, IDS[:40])  # slot 1 takes the first block of slot 0; its fork does not
    for slot in (0, 1):
        cache.release(slot)
    cache.check()
    prefix.check()
    assert cache.book.cached == 1
    fused(Rows.of([Part(0, 0, IDS[: 16 * cache.room])]), cache)  # takes the cached one too
    cache.check()
    prefix.check()
    assert len(prefix) == 0
    assert torch.equal(
        fused(Rows.of([whole(copy, 40, IDS[40:44])]), cache), logits(fused, IDS[:44])[40:]
    )


def test_only_whole_blocks_that_the_slot_holds_are_published(fused: FusedDecoder) -> None:
    prefix = made(fused)
    fused(Rows.prefill(IDS[:47]), prefix.cache)
    assert prefix.publish(0, IDS[:200]) == 2
    prefix.cache.truncate(0, 20)
    assert prefix.publish(0, IDS[:200]) == 0
    assert prefix.publish(1, IDS[:200]) == 0
    assert len(prefix) == 2


def test_clearing_leaves_requests_alone(fused: FusedDecoder) -> None:
    prefix = made(fused)
    serve(fused, prefix, IDS[:64])
    serve(fused, prefix, IDS[100:148], slot=1)
    prefix.cache.release(1)
    prefix.clear()
    prefix.check()
    assert (len(prefix), prefix.cache.book.held, prefix.cache.book.cached) == (0, 4, 0)
    assert prefix.match(IDS[:70]) == []


def test_a_cache_takes_one_prefix_cache(fused: FusedDecoder) -> None:
    prefix = made(fused)
    with pytest.raises(CacheError, match="it takes one"):
        PrefixCache(prefix.cache, KEY)


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda prefix, block: prefix.cache.book.withdraw(block), "but not published"),
        (lambda prefix, block: prefix._of_block.pop(block), "but not published"),
        (lambda prefix, block: prefix._nodes.pop(prefix._of_block[block].named.name),
         "follows one that was evicted"),
        (lambda prefix, block: prefix._of_block[block].children.clear(), "not known to the one"),
    ],
)  # fmt: skip
def test_a_fault_is_named(fused: FusedDecoder, damage: Any, fault: str) -> None:
    prefix = made(fused)
    serve(fused, prefix, IDS[:40])
    prefix.check()
    damage(prefix, prefix.cache.blocks(0)[0])
    with pytest.raises(CacheError, match=fault):
        prefix.check()


def test_a_published_block_that_the_prefix_cache_has_not_is_found_out(fused: FusedDecoder) -> None:
    prefix = made(fused)
    cache: PagedCache = prefix.cache
    cache.extend(0, 16)
    cache.book.publish(cache.blocks(0)[0])
    with pytest.raises(CacheError, match="1 blocks are published; the prefix cache has 0"):
        prefix.check()


def test_a_look_finds_what_match_would_and_leaves_no_trace(fused: FusedDecoder) -> None:
    prefix = made(fused)
    assert prefix.known(IDS[:40]) == []
    again(fused, prefix, IDS[:40])
    before = vars(prefix.counts).copy()
    seen = [prefix.known(IDS[:length]) for length in (16, 17, 33, 40, 60)]
    assert [len(blocks) for blocks in seen] == [0, 1, 2, 2, 2]
    assert prefix.known(IDS[:40], replace(KEY, salt="x")) == []
    assert (vars(prefix.counts), prefix.cache.book.held) == (before, 0)
    assert prefix.match(IDS[:60]) == seen[-1]
