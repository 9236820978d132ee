"""The plain decoder over a paged cache: the bits of the static one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.engine.generate import generate
from labkit.model.cache.protocol import CacheError
from labkit.model.forward import Paged, offers
from labkit.model.rows import Part, Rows
from tests.conftest import Tiny
from tests.model.test_trees import check, near, trees
from tests.paged_helpers import free_blocks, poison, scattered
from tests.tiny import whole

IDS = [(7 * n * n + 3 * n) % 97 for n in range(128)]


def test_every_family_reads_a_paged_cache(tiny: Tiny) -> None:
    decoder = tiny.model.decoder
    static, paged = decoder.new_cache(1, 128), scattered(decoder.new_paged_cache(1, 8))
    for start in range(0, 100, 20):
        rows = Rows.of([whole(0, start, IDS[start : start + 20])])
        assert torch.equal(decoder(rows, paged), decoder(rows, static))


@given(parents=trees(), context=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_it_reads_trees(llama: Tiny, parents: list[int], context: int, seed: int) -> None:
    decoder = llama.model.decoder
    check(decoder, scattered(decoder.new_paged_cache(2, 12), seed), context, parents, near)


def test_shared_blocks_serve_several_slots(llama: Tiny) -> None:
    decoder = llama.model.decoder
    cache = scattered(decoder.new_paged_cache(3, 12))
    decoder(Rows.prefill(IDS[:50]), cache)
    copy = cache.fork(0)
    cache.adopt(2, cache.blocks(0)[:3], 48)
    poison(cache, free_blocks(cache))
    parts = [whole(0, 50, IDS[50:60]), whole(copy, 50, IDS[70:75]), whole(2, 48, IDS[48:60])]
    found = decoder(Rows.of(parts), cache)
    cache.check()
    for ids, rows in (
        (IDS[:60], found[:10]),
        ([*IDS[:50], *IDS[70:75]], found[10:15]),
        (IDS[:60], found[15:]),
    ):
        alone = decoder(Rows.prefill(ids, all_logits=True), decoder.new_cache(1, 64))
        assert near(rows, alone[-len(rows) :])


def test_generate_takes_it(llama: Tiny) -> None:
    decoder = llama.model.decoder
    cache = decoder.new_paged_cache(1, 4)
    assert list(generate(decoder, IDS[:20], 30, cache=cache)) == list(
        generate(decoder, IDS[:20], 30)
    )


def test_a_paged_cache_of_another_model_is_refused(llama: Tiny, make_tiny) -> None:  # type: ignore[no-untyped-def]
    other = make_tiny("llama-mha").model.decoder
    with pytest.raises(CacheError, match="the model needs"):
        llama.model.decoder(Rows.of([Part(0, 0, [1])]), other.new_paged_cache(1, 1))


def test_the_plain_decoder_offers_it(llama: Tiny) -> None:
    paged = offers(llama.model.decoder, Paged)
    assert paged is not None
    assert paged.new_paged_cache(2, 100).capacity == 128  # the model's context
