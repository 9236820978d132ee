"""Screening finds the very token that all logits would have, and looks at few of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.engine.draft import Proposal
from labkit.engine.generate import generate
from labkit.engine.verify import accept_greedy
from labkit.model.rows import Part
from labkit.optimize.fused import FusedDecoder
from labkit.optimize.fused.pack import FORMATS, from_blocks, to_blocks
from labkit.optimize.fused.screen import SCREEN_ERROR, row_errors, screen_of
from labkit.optimize.fused.sources import held
from labkit.optimize.fused.weights import PackedWeights, packed
from tests.conftest import make_reference
from tests.fused_helpers import SIZES, leave_alone, logits
from tests.model.test_gguf_file import gguf_weights, write_gguf
from tests.tiny import whole

VOCABULARY = 1000
IDS = [(7 * n * n + 3 * n) % VOCABULARY for n in range(120)]


@pytest.fixture(scope="module")
def make(tmp_path_factory) -> Callable[..., PackedWeights]:
    """Packed weights of a random model whose head's rows were changed by a function."""

    def made(change: Callable[[torch.Tensor], Any], threads: int | None = None) -> PackedWeights:
        reference = make_reference("llama", **SIZES | {"vocab_size": VOCABULARY})
        with torch.no_grad():
            change(reference.lm_head.weight)
        file = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
        kind = GGMLQuantizationType.Q8_0
        write_gguf(file, reference, gguf_weights(reference), kind)
        return packed(file, threads=threads)

    return made


def steps(weights: PackedWeights, **options: Any) -> tuple[list[int], int]:
    """The token after every one of IDS, a greedy step each, and the groups computed exactly."""
    decoder = FusedDecoder(weights, **options)
    cache = decoder.new_cache(1, len(IDS))
    parts = (Part(0, at, [token]) for at, token in enumerate(IDS))
    return [decoder.greedy([part], cache)[0][0] for part in parts], decoder.exact_groups


def crowd(head: torch.Tensor) -> None:
    """All rows nearly one: their logits lie closer than five bits can tell."""
    head.copy_(head[:1] + 0.02 * head)


def twins(head: torch.Tensor) -> None:
    """Every row four times, far apart: the likeliest is never alone."""
    head.copy_(head[:250].repeat(4, 1))


@pytest.mark.parametrize("isa", ["", "portable"])
@pytest.mark.parametrize("change", [lambda head: None, crowd, twins, torch.zero_])
def test_the_token_is_the_likeliest_of_all_logits(make, change, isa):
    expected = logits(FusedDecoder(make(change)), IDS).argmax(-1).tolist()
    for threads in (1, 3):
        weights = make(change, threads)
        found, looked_at = steps(weights, isa=isa)
        assert found == expected
        assert looked_at > 0
        assert steps(weights, screened=False) == (expected, 0)


# Of each row but the first, the one it follows.
CHAIN, TREE = (0, 1, 2), (0, 0, 1)


@pytest.mark.parametrize("isa", ["", "portable"])
@pytest.mark.parametrize("parents", [CHAIN, TREE])
@pytest.mark.parametrize("change", [lambda head: None, crowd, twins, torch.zero_])
@given(wrong=st.sets(st.integers(1, 3)))
@settings(deadline=None, max_examples=8)
def test_drafted_rows_are_judged_as_by_all_logits(make, change, parents, isa, wrong):
    """Rows that are what the target says, but for some, or all, of them."""
    weights = make(change, 3)
    screened, plain = FusedDecoder(weights, isa), FusedDecoder(weights, screened=False)
    context, tokens = IDS[:20], [IDS[20]]
    following = list(generate(plain, [*context, *tokens], 3))
    depths = [0]
    for row, parent in enumerate(parents, 1):
        depths.append(depths[parent] + 1)
        tokens.append(
            following[depths[row] - 1] + (row in wrong) + (parents[:row].count(parent) > 1)
        )
    tokens = [token % VOCABULARY for token in tokens]
    tree = () if parents == CHAIN else (-1, *parents)
    proposal = Proposal(tokens[1:], parents=tuple(row - 1 for row in parents) if tree else ())
    found = []
    for decoder in (screened, plain):
        cache = decoder.new_cache(1, 32)
        decoder.greedy([Part(0, 0, context)], cache)
        found += decoder.greedy([whole(0, len(context), tokens, tree, guesses=True)], cache)
    assert accept_greedy(found[0], proposal) == accept_greedy(found[1], proposal)
    assert all(ours in (-1, theirs) for ours, theirs in zip(*found, strict=True))
    assert screened.exact_groups > 0


def test_what_follows_a_wrong_guess_is_not_looked_for(make):
    decoder = FusedDecoder(make(lambda head: None))
    cache = decoder.new_cache(1, 32)
    ((right,),) = decoder.greedy([Part(0, 0, [IDS[0]])], cache)
    wrong = [IDS[0], right + 1, 5]
    cache.truncate(0, 0)
    assert decoder.greedy([whole(0, 0, wrong, guesses=True)], cache) == [[right, -1, -1]]
    cache.truncate(0, 0)
    assert min(decoder.greedy([whole(0, 0, wrong)], cache)[0]) >= 0


def test_a_screen_spares_most_of_the_head(make):
    def stand_out(head):  # as heads of trained models do: some rows are far longer than most
        head.mul_(torch.linspace(0.02, 1, VOCABULARY)[:, None] ** 3)

    _, looked_at = steps(make(stand_out, 1))
    assert looked_at < 0.5 * len(IDS) * VOCABULARY / 16


def test_without_the_error_tokens_would_be_wrong(make):
    weights = make(crowd)
    expected, _ = steps(weights)
    entry = weights.entries[SCREEN_ERROR]
    start = weights.locations[SCREEN_ERROR].starts[0]
    weights.blob[start : start + entry.nbytes] = 0
    assert steps(weights)[0] != expected


@given(seed=st.integers(0, 2**32 - 1), columns=st.integers(1, 20))
@settings(deadline=None, max_examples=60)
def test_no_input_leads_further_off_than_a_rows_error(seed, columns):
    rng = np.random.default_rng(seed)
    form = FORMATS["q8_0"]
    head = rng.standard_normal((8, 32 * columns)) * 10.0 ** rng.integers(-3, 3, (8, 1))
    blocks = to_blocks(head, form)
    exact = from_blocks(blocks, form).astype(np.float64)
    copy, errors = (one.whole() for one in screen_of(held("head", blocks, form.name)))
    assert np.array_equal(copy, to_blocks(exact, FORMATS["q5_0"]))  # as ggml rounds
    off = exact - from_blocks(copy, FORMATS["q5_0"])
    inputs = [off, rng.standard_normal(exact.shape), exact]  # the first is the worst there is
    for x in inputs:
        moved = np.abs((off * x).sum(1))
        assert (moved <= errors * np.linalg.norm(x, axis=1)).all()
    assert (np.abs((off * off).sum(1)) > 0.99 * errors * np.linalg.norm(off, axis=1)).all()


def test_rounding_is_part_of_the_error():
    assert 0 < row_errors(np.array([[0.0, 8.0, 8.0]]), 64)[0] < 1e-4


def test_several_rows_and_their_logits_are_the_heads_own(make):
    weights = make(crowd)
    decoder, plain = FusedDecoder(weights), FusedDecoder(weights, screened=False)
    parts = [whole(0, 0, IDS[:30])]
    best = decoder.greedy(parts, decoder.new_cache(1, 30))
    assert decoder.exact_groups == 0
    assert best == plain.greedy(parts, plain.new_cache(1, 30))
    assert torch.equal(logits(decoder, IDS), logits(plain, IDS))


def test_a_head_of_few_bits_has_no_screen(tmp_path):
    reference = make_reference("llama", **SIZES)
    kind = GGMLQuantizationType.Q4_1
    file = write_gguf(tmp_path / "tiny.gguf", reference, gguf_weights(reference), kind)
    assert not packed(file).has_screen
    assert not FusedDecoder(packed(file)).screened


@pytest.mark.model
def test_the_real_model_screened_and_not(real_model):
    from labkit.optimize.fused import load_fused
    from labkit.workload.prompts import prompt_ids

    screened, plain = load_fused(), load_fused(screened=False)
    assert screened.weight_bytes < 0.92 * plain.weight_bytes
    for seed in (1, 2):
        ids = prompt_ids(real_model.tokenizer, 100, seed)
        assert list(generate(screened, ids, 120)) == list(generate(plain, ids, 120))
    groups = -(-screened.config.vocab_size // 16)
    assert screened.exact_groups < 0.2 * groups * 2 * 119


def test_the_first_thread_alone_finds_the_same_tokens(make):
    decoder = FusedDecoder(make(crowd, threads=3))
    together = list(generate(decoder, [3, 5, 8], 20))
    leave_alone(decoder, 10**6)
    assert list(generate(decoder, [3, 5, 8], 20)) == together
