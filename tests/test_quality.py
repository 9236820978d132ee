"""Same answer, and how far another one is off: against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from labkit.model.generate import generate
from labkit.model.rows import Rows
from labkit.quality.divergence import divergence
from labkit.quality.lossless import SameAnswer, all_same, same_answer
from tests.tiny import tiny_decoder


def test_equal_streams_are_lossless():
    decoder = tiny_decoder()
    tokens = list(generate(decoder, [1, 2, 3], 8))
    same = same_answer(decoder, [1, 2, 3], tokens, list(tokens))
    assert same.lossless
    assert same.quality() == {"lossless": True, "tokens_compared": 8}


def test_a_real_difference_is_found_with_its_margin():
    decoder = tiny_decoder()
    tokens = list(generate(decoder, [1, 2, 3], 8))
    other = [*tokens[:4], (tokens[4] + 1) % 97, *tokens[5:]]
    same = same_answer(decoder, [1, 2, 3], tokens, other)
    rows = Rows.prefill([1, 2, 3, *tokens[:4]])
    logits = decoder(rows, decoder.new_cache(1, len(rows)))[-1]
    assert not same.lossless
    assert same.equal == 4
    assert same.margin == pytest.approx(float(logits[tokens[4]] - logits[other[4]]), abs=1e-5)


def test_a_difference_within_rounding_is_a_tie():
    assert SameAnswer(10, 4, margin=1e-5).lossless
    assert not SameAnswer(10, 4, margin=0.5).lossless


def test_a_stream_that_ends_early_is_a_difference():
    decoder = tiny_decoder()
    tokens = list(generate(decoder, [1, 2], 6))
    assert not same_answer(decoder, [1, 2], tokens, tokens[:4]).lossless


def test_all_same_stops_at_a_real_difference():
    decoder = tiny_decoder()
    greedy = lambda prompt: list(generate(decoder, prompt, 5))  # noqa: E731
    broken = lambda prompt: [(t + 1) % 97 for t in greedy(prompt)]  # noqa: E731
    assert all_same(decoder, [[1], [2]], greedy, greedy).tokens == 10
    assert not all_same(decoder, [[1], [2]], greedy, broken).lossless


def test_divergence_of_a_model_from_itself_is_nothing():
    logits = torch.randn(6, 11)
    quality = divergence([[1, 2, 3, 4, 5, 6]], lambda _: logits, lambda _: logits).quality()
    assert quality["kl_mean"] == 0
    assert quality["top1_agreement"] == 1
    assert quality["perplexity_ratio"] == pytest.approx(1)


def test_kl_agreement_and_perplexity_by_hand():
    before = torch.log(torch.tensor([[0.5, 0.5], [0.9, 0.1]]))
    after = torch.log(torch.tensor([[0.25, 0.75], [0.9, 0.1]]))
    found = divergence([[0, 1]], lambda _: before, lambda _: after)
    by_hand = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert found.kl[0] == pytest.approx(by_hand, abs=1e-6)
    assert found.kl[1] == pytest.approx(0, abs=1e-6)
    assert found.perplexity == pytest.approx((2.0, 4 / 3), rel=1e-5)
    assert found.quality()["positions"] == 2


def test_texts_are_pooled():
    logits = {3: torch.randn(3, 5), 4: torch.randn(4, 5)}
    texts = [[0, 1, 2], [0, 1, 2, 3]]
    found = divergence(texts, lambda ids: logits[len(ids)], lambda ids: logits[len(ids)] * 2)
    assert found.kl.shape == (7,)
    assert found.baseline_loss.shape == (5,)
    assert np.all(found.kl >= 0)
