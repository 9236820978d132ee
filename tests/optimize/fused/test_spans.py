"""Embeddings as rows, and rows that see each other: against the plain twin and in company."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from labkit.model.cache.protocol import CacheError
from labkit.model.decoder import Decoder
from labkit.model.rows import Part, Rows
from labkit.optimize.fused import FusedDecoder, load_fused
from tests.fused_helpers import logits, plain_twin, tiny_gguf
from tests.tiny import whole

IDS = [(7 * n * n + 3 * n) % 97 for n in range(300)]
TREE = [-1, 0, 0, 1, 2, 4, 3]


class Case(NamedTuple):
    file: Path
    fused: FusedDecoder
    twin: Decoder


@pytest.fixture(
    scope="module",
    params=[("llama", "Q4_1"), ("qwen2", "Q8_0"), ("qwen3", "Q5_0"), ("llama-wide-heads", "Q8_0")],
    ids="-".join,
)
def case(request, tmp_path_factory) -> Case:
    name, kind = request.param
    file = tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", name, kind)
    return Case(file, load_fused(file, threads=2), plain_twin(file))


@pytest.fixture(scope="module")
def fused(tmp_path_factory) -> FusedDecoder:
    return load_fused(tiny_gguf(tmp_path_factory.mktemp("tiny") / "a.gguf", "llama", "Q4_1"))


def together(slot: int, start: int, tokens: list[int], **more) -> Part:
    """Rows that see each other."""
    return whole(slot, start, tokens, causal=False, **more)


def passes(decoder, *parts: list[Part], slots: int = 1) -> Tensor:
    """The logits of several passes, one after another."""
    cache = decoder.new_cache(slots, 320)
    if isinstance(decoder, FusedDecoder):
        cache = decoder.new_cache(slots, 320, torch.float32)
    return torch.cat([decoder(Rows.of(each), cache) for each in parts])


def agrees(found: Tensor, expected: Tensor) -> None:
    """As test_decoder.agrees: inputs on the edge of two integers may round the other way, and here
    every row looks at such a row. Rows that miss one of their span are off by several times more.
    """
    assert found.shape == expected.shape
    assert (found - expected).abs().mean() < 0.03 * expected.std()
    assert (found.argmax(-1) == expected.argmax(-1)).float().mean() > 0.9


@pytest.mark.parametrize(("before", "count"), [(0, 1), (0, 5), (3, 60), (0, 128), (150, 100)])
def test_rows_that_see_each_other_are_the_plain_twins(case, before, count):
    steps = [
        [whole(0, 0, IDS[:before])],
        [together(0, before, IDS[before : before + count])],
        [whole(0, before + count, IDS[280:290])],  # which see them all
    ]
    steps = steps[not before :]
    agrees(passes(case.fused, *steps), passes(case.twin, *steps))


def test_it_matters_that_they_see_each_other(fused):
    tokens = IDS[:20]
    one, other = passes(fused, [together(0, 0, tokens)]), passes(fused, [whole(0, 0, tokens)])
    assert not torch.equal(one[0], other[0])
    assert (one[0] - other[0]).abs().max() > 0.05 * other.std()


@pytest.mark.parametrize("window", [1, 8, 140])
def test_a_window_holds_before_them_and_not_among_them(case, window):
    packed = replace(case.fused.packed, config=replace(case.fused.config, sliding_window=window))
    twin = plain_twin(case.file)
    twin.config = replace(twin.config, sliding_window=window)
    for layer in twin.layers:
        layer.self_attn.config = twin.config
    steps = ([whole(0, 0, IDS[:100])], [together(0, 100, IDS[100:160])], [whole(0, 160, IDS[:9])])
    agrees(passes(FusedDecoder(packed), *steps), passes(twin, *steps))


@pytest.mark.parametrize("isa", ["avx2", "portable"])
def test_other_instruction_sets_and_threads_give_the_same_bits(case, isa):
    if isa == "avx2" and case.fused.isa not in ("avx2", "avx512vnni"):
        isa = case.fused.isa
    other = load_fused(case.file, threads=3, isa=isa)
    torch.manual_seed(0)
    given = torch.randn(20, case.fused.config.hidden_size)
    steps = ([whole(0, 0, IDS[:90])], [together(0, 90, [0] * 20, embeddings=given)])
    assert torch.equal(passes(case.fused, *steps), passes(other, *steps))


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_neighbours_change_no_bit(fused, data):
    """Parts of every kind in one pass, in any order and size, come out as each does alone."""
    torch.manual_seed(1)
    kinds = data.draw(
        st.lists(st.sampled_from(["chain", "tree", "together"]), min_size=1, max_size=5)
    )
    parts = []
    for slot, kind in enumerate(kinds):
        count = data.draw(st.integers(1, 128)) if kind != "tree" else len(TREE)
        tokens = IDS[slot : slot + count]
        hidden = fused.config.hidden_size
        given = torch.randn(count, hidden) if data.draw(st.booleans()) else None
        parts.append(
            whole(
                slot, 0, tokens, TREE if kind == "tree" else (), causal=kind != "together",
                embeddings=given,
            )
        )  # fmt: skip
    found = passes(fused, parts, slots=len(parts))
    alone = [passes(fused, [replace_slot(part)]) for part in parts]
    assert torch.equal(found, torch.cat(alone))


def replace_slot(part: Part) -> Part:
    """The same part in slot 0."""
    return Part(
        0, part.start, part.tokens, part.wanted, part.parents,
        embeddings=part.embeddings, causal=part.causal,
    )  # fmt: skip


def test_more_rows_than_fit_are_refused_and_nothing_is_written(fused):
    cache = fused.new_cache(2, 200)
    for parts in (
        [together(0, 0, IDS[:129])],
        [whole(1, 0, IDS[:3]), together(0, 0, IDS[:129])],
    ):
        with pytest.raises(CacheError, match="at most 128 of them"):
            fused(Rows.of(parts), cache)
        with pytest.raises(CacheError, match="at most 128 of them"):
            fused.greedy(parts, cache)
    assert [cache.length(0), cache.length(1)] == [0, 0]
    assert not cache.store.keys.any()


def test_a_tokens_own_embedding_gives_the_tokens_bits(case):
    table = case.twin.embed_tokens.weight
    expected = logits(case.fused, IDS[:140])
    parts = [
        whole(0, 0, IDS[:40]),
        whole(1, 0, IDS[:140], embeddings=table[torch.tensor(IDS[:140])]),
        whole(2, 0, [1000] * 9, embeddings=table[torch.tensor(IDS[:9])].double()),
    ]
    found = case.fused(Rows.of(parts), case.fused.new_cache(3, 200))
    assert torch.equal(found, torch.cat((expected[:40], expected, expected[:9])))


def test_embeddings_are_the_plain_twins(case):
    torch.manual_seed(2)
    given = torch.randn(30, case.fused.config.hidden_size)
    steps = (
        [whole(0, 0, IDS[:10])],
        [whole(0, 10, [0] * 30, embeddings=given)],
        [whole(0, 40, IDS[50:60])],
    )
    agrees(passes(case.fused, *steps), passes(case.twin, *steps))


def test_greedy_and_traced_read_embeddings_and_rows_that_see_each_other(case):
    torch.manual_seed(3)
    hidden = case.fused.config.hidden_size
    streams = torch.zeros(20, hidden)
    parts = [
        together(0, 0, [0] * 20, embeddings=torch.randn(20, hidden), streams=streams),
        Part(1, 0, [0] * 4, embeddings=torch.randn(4, hidden)),
    ]
    rows = Rows.of(parts)
    logits, expected = case.fused.traced(rows, case.fused.new_cache(2, 32))
    best = logits.argmax(-1).tolist()
    assert case.fused.greedy(parts, case.fused.new_cache(2, 32)) == [best[:20], best[20:]]
    assert torch.equal(streams, expected[:20])
    for part, tokens in zip(parts, (best[:20], best[20:]), strict=True):
        assert case.fused.greedy([part], case.fused.new_cache(2, 32)) == [tokens]


def test_embeddings_of_another_size_are_refused(fused):
    cache = fused.new_cache(1, 16)
    with pytest.raises(ValueError, match="64 float32 each"):
        fused(Rows.of([whole(0, 0, [0, 0], embeddings=torch.zeros(2, 65))]), cache)
    assert cache.length(0) == 0
