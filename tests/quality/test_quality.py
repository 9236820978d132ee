"""Same answer, and how far answers differ, against numbers computed by hand."""

import math

import numpy as np
import pytest
import torch

from labkit.engine.generate import generate
from labkit.errors import ParameterError
from labkit.model.rows import Rows
from labkit.quality.divergence import Divergence, between, divergence, share_of_excess, share_of_kl
from labkit.quality.judge import chunked_logits, judge
from labkit.quality.lossless import SameAnswer, same_answer, tie_margin
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


def test_a_tiny_difference_is_not_lost_in_rounding():
    """float32 log-probabilities have errors of 1e-6; a divergence of 1e-8 is still found."""
    torch.manual_seed(0)
    before = torch.randn(20, 5000) * 5
    after = before + torch.randn_like(before) * 1e-4
    expected, found = before.double().log_softmax(-1), after.double().log_softmax(-1)
    exact = (expected.exp() * (expected - found)).sum(-1)
    kl = between(before, after, range(20)).kl
    assert exact.max() < 1e-7
    assert np.allclose(kl, exact, rtol=0.05)


def test_excess_is_the_ratio_less_one():
    losses = np.array([1.0, 3.0]), np.array([1.5, 3.1])
    found = Divergence(np.zeros(2), np.ones(2), *losses)
    before, after = found.perplexity
    assert found.excess == pytest.approx(after / before - 1)


def test_share_of_excess_with_its_interval():
    random = np.random.default_rng(0)
    base = random.normal(3, 1, 8192)
    noise = random.normal(0, 0.1, base.size)
    far = Divergence(base, base, base, base + 0.2 + noise)
    near = Divergence(base, base, base, base + 0.08 + noise / 2)
    share, low, high = share_of_excess(near, far)
    assert low < share < high
    assert share == pytest.approx(np.expm1(0.08) / np.expm1(0.2), rel=0.05)
    assert high - low < 0.1
    assert share_of_excess(far, far) == pytest.approx((1, 1, 1))


def test_share_of_kl_with_its_interval():
    random = np.random.default_rng(0)
    kl = random.exponential(0.003, 8192)
    far = Divergence(kl, kl, kl, kl)
    near = Divergence(kl * random.normal(0.9, 0.05, kl.size), kl, kl, kl)
    share, low, high = share_of_kl(near, far)
    assert low < share < high < 1
    assert share == pytest.approx(0.9, rel=0.02)
    assert share_of_kl(far, far) == pytest.approx((1, 1, 1))


def test_intervals_hold_the_numbers_and_narrow_with_more_text():
    random = np.random.default_rng(0)
    widths = []
    for size in (512, 8192):
        kl = random.exponential(0.01, size)
        losses = random.normal(3, 1, size - 4)
        same = random.random(size) < 0.9
        judged = Divergence(kl, same, losses, losses + random.normal(0.02, 0.1, size - 4)).judged()
        assert judged["positions"] == size
        assert judged["kl_mean_low"] < judged["kl_mean"] < judged["kl_mean_high"]
        assert judged["kl_p99_low"] <= judged["kl_p99"] <= judged["kl_p99_high"]
        assert judged["top1_low"] < judged["top1_agreement"] < judged["top1_high"]
        assert judged["perplexity_low"] < judged["perplexity_ratio"] < judged["perplexity_high"]
        widths.append(judged["kl_mean_high"] - judged["kl_mean_low"])
    assert widths[1] == pytest.approx(4 * 0.01 / 8192**0.5, rel=0.25)  # 2 * 1.96 sigma / sqrt n
    assert widths[0] > 2 * widths[1]


def test_neighbours_that_are_alike_widen_the_interval():
    random = np.random.default_rng(0)
    alone = random.exponential(0.01, 8192)
    alike = np.repeat(random.exponential(0.01, 8192 // 64), 64)
    made = [Divergence(kl, kl, kl, kl).judged() for kl in (alone, alike)]
    narrow, wide = (judged["kl_mean_high"] - judged["kl_mean_low"] for judged in made)
    assert wide > 4 * narrow


def test_a_model_against_itself_has_intervals_without_width():
    kl = np.zeros(3)
    judged = Divergence(kl, kl == 0, np.ones(2), np.ones(2)).judged()
    assert (judged["kl_p99_low"], judged["kl_p99_high"]) == (0, 0)
    assert (judged["top1_low"], judged["top1_high"]) == (1, 1)
    assert (judged["perplexity_low"], judged["perplexity_high"]) == (1, 1)


TEXTS = [[5, 1, 7, 3, 2, 9, 4], list(range(20))]


def whole(decoder):
    return lambda ids: decoder(Rows.prefill(ids, all_logits=True), decoder.new_cache(1, len(ids)))


@pytest.mark.parametrize("rows", [1, 3, 7, 256])
def test_judging_in_chunks_is_judging_at_once(rows):
    reference, others = tiny_decoder(), {"one": tiny_decoder(1), "two": tiny_decoder(2)}
    found = judge(reference, others, TEXTS, rows)
    for name, other in others.items():
        expected = divergence(TEXTS, whole(reference), whole(other))
        assert np.allclose(found[name].kl, expected.kl, rtol=1e-3)
        assert np.allclose(found[name].variant_loss, expected.variant_loss, rtol=1e-4)
        assert np.array_equal(found[name].same_top, expected.same_top)
        assert found[name].baseline_loss.size == 6 + 19


def test_the_reference_computes_a_chunk_once_and_no_more_than_it():
    decoder, asked = tiny_decoder(), []

    class Counting:
        config = decoder.config
        new_cache = staticmethod(decoder.new_cache)

        def __call__(self, rows, cache):
            asked.append(len(rows))
            return decoder(rows, cache)

    found = judge(Counting(), {str(n): decoder for n in range(3)}, [list(range(20))], 8)
    assert asked == [8, 8, 4]
    assert all(part.kl.max() == 0 for part in found.values())


def test_chunks_go_on_in_the_cache_they_are_given():
    decoder = tiny_decoder()
    cache = decoder.new_cache(1, 20)
    parts = list(chunked_logits(decoder, TEXTS[1], 6, cache))
    assert [len(part) for part in parts] == [6, 6, 6, 2]
    assert cache.length(0) == 20
    assert torch.allclose(torch.cat(parts), whole(decoder)(TEXTS[1]), atol=1e-4)


@pytest.mark.parametrize("bad", [{"texts": []}, {"texts": [[1]]}, {"variants": {}}, {"rows": 0}])
def test_nothing_to_judge_is_refused(bad):
    decoder = tiny_decoder()
    given = {"variants": {"same": decoder}, "texts": TEXTS, "rows": 4} | bad
    with pytest.raises(ParameterError, match="judging needs a variant"):
        judge(decoder, **given)


def test_a_margin_that_is_a_tie_grows_with_the_steps_of_the_dtype() -> None:
    assert tie_margin(torch.float32) == 1e-3
    assert tie_margin(torch.bfloat16) == 32 * 2.0**-7
