"""What each engine would run, what a pass of it must do, and what the page says of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from labkit.errors import LabkitError, ParameterError
from labkit.limits.cost import decode_cost, prefill_cost
from labkit.model.cache.quantized import QuantizedCache
from labkit.model.load import LoadedModel, default_gguf
from labkit.model.weights import read_bytes
from labkit.optimize.quantization import (
    WithQuantizedCache,
    gptq,
    linears,
    pack,
    quantize,
    round_to_nearest,
)
from labkit.optimize.quantization.calibration import Stream, hessians
from labkit.studies import quantization_sentences as sentences
from labkit.studies import quantization_variants as variants
from labkit.studies.quantization_quality import answer_row, positions_of
from labkit.studies.quantization_variants import Plan
from labkit.timing.statistics import interval
from labkit.workload.texts import pieces
from tests.tiny import tiny_decoder


def loaded(decoder):
    return LoadedModel(decoder, "tiny", Path("/nowhere"))


def test_names_of_what_engines_run():
    decoder = tiny_decoder()
    made = {
        "four": quantize(decoder, "rtn", 4, 16),
        "eight": quantize(decoder, "symmetric", 8, None),
    }
    found = variants.plans(["torch", "fused"], loaded(decoder), made, 16)
    names = ["four", "eight", "fused, as-is", "fused, q8_0", "fused, q4_0", variants.CACHE]
    assert list(found) == names
    assert [found[name].arithmetic for name in names] == ["float32"] * 2 + ["int8"] * 3 + [
        "float32"
    ]
    assert [name for name in names if found[name].products_only] == ["four"]
    assert found["four"].words(None) == "int4, groups of 16, head int8 with a scale a row " + (
        "(float32 sums)"
    )
    assert found["eight"].words(None) == "int8, one scale a row (float32 sums)"
    assert list(variants.plans([], loaded(decoder), made, 16)) == [variants.CACHE]
    with pytest.raises(ParameterError, match="'cuda' is unknown; allowed: torch, torchao, fused"):
        variants.plans(["torch", "cuda"], loaded(decoder), made, 16)


def plan(make):
    return Plan(make, "float32", lambda _: "float32")


def test_what_cannot_be_made_says_why_and_the_rest_is_made():
    def broken():
        raise LabkitError("no such kernel")

    made, missing = variants.attempt({"good": plan(lambda: 1), "bad": plan(broken)})
    assert made == {"good": 1}
    assert missing == {"bad": "no such kernel"}


def test_a_mistake_of_ours_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        variants.attempt({"bug": plan(lambda: 1 / 0)})


def test_the_fused_decoder_is_not_run_beside_an_accelerator():
    """It would pack a large model for minutes, and compare a processor with a GPU."""
    with pytest.raises(variants.WrongDeviceError, match="runs on the CPU, and this run is on cuda"):
        variants._fused(Path("/nowhere"), "q8_0", torch.device("cuda:0"))


def test_cache_bytes_a_token():
    decoder = tiny_decoder()
    config = decoder.config
    assert variants.kv_bytes(decoder) == config.kv_bytes_per_token(4)
    heads = 2 * config.layers * config.kv_heads
    eight = WithQuantizedCache(decoder)
    assert isinstance(eight.new_cache(1, 4), QuantizedCache)
    assert variants.kv_bytes(eight) == heads * (config.head_dim + 2)


def test_the_plain_decoders_cost_is_that_of_its_config():
    decoder = tiny_decoder()
    found = variants.costs_of(decoder.config, decoder, "float32", 20, 50)
    assert found["decode"] == decode_cost(decoder.config, 50)
    assert found["prefill"] == prefill_cost(decoder.config, 20)


def test_a_variant_is_held_against_its_own_bytes_and_its_own_arithmetic():
    decoder = tiny_decoder()
    packed = pack(quantize(decoder, "symmetric", 8, None))
    plain = variants.costs_of(decoder.config, decoder, "float32", 20, 50)
    found = variants.costs_of(decoder.config, packed, "int8", 20, 50)
    for phase, cost in found.items():
        assert cost.weight_bytes == read_bytes(packed) < plain[phase].weight_bytes / 3
        assert cost.dtype == "int8"
        assert cost.flops == plain[phase].flops
    assert found["decode"].kv_read_bytes == 50 * variants.kv_bytes(packed)


def test_the_caches_share_grows_as_weights_shrink():
    config = tiny_decoder().config
    weights = decode_cost(config, 0, dtype="bfloat16").weight_bytes
    cache = 100 * config.kv_bytes_per_token(2)
    assert variants.share_of_cache(config, 100, 16, 2) == cache / (weights + cache)
    assert variants.share_of_cache(config, 100, 4, 2) == cache / (weights / 4 + cache)
    assert all(len(row) == 5 for row in variants.cache_shares(8192))


def test_time_beyond_the_bare_read_is_told_where_the_interval_shows_it():
    parts = {
        "part": 0.2,
        "speedup": interval([4.0, 4.1, 3.9]),
        "token": 0.010,
        "against": "bare read of 9 MB",
    }
    below = sentences.beyond_bare("v", share=interval([0.8, 0.79, 0.81]), **parts)
    assert (
        "reaches 80% [78, 83] of its bare read of 9 MB: 2 ms of its 10 ms a token lie beyond it"
        in below
    )
    for shares in ([0.9, 1.2, 0.8], [1.1, 1.09, 1.11]):
        unsure = sentences.beyond_bare("v", share=interval(shares), **parts)
        assert "its time is not measurably longer" in unsure
        assert " ms" not in unsure
    assert "bare read" not in sentences.beyond_bare("v", share=None, **parts)


def test_what_the_reference_is():
    shipped = sentences.reference({"Q4_1": 0.79, "Q8_0": 0.21}, "float32")
    assert "79% of the weights as Q4_1 and 21% of the weights as Q8_0" in shipped
    assert "the reference is quantized itself" in shipped
    assert "quantized" not in sentences.reference({"F16": 0.99, "F32": 0.01}, "float32")
    assert "quantized" not in sentences.reference({}, "bfloat16")


@pytest.mark.model
def test_the_formats_of_the_shipped_file():
    found = variants.stored_formats(default_gguf())
    assert list(found) == ["Q4_1", "Q8_0"]
    assert found["Q4_1"] == pytest.approx(0.79, abs=0.01)
    assert sum(found.values()) == pytest.approx(1)
    assert variants.stored_formats(None) == {}


def test_the_sentence_on_weights_and_cache_follows_the_run():
    assert "3.0 times as many bytes of weights as of cache" in sentences.weights_or_cache(3)
    assert "4.0 times as many bytes of cache as of weights" in sentences.weights_or_cache(0.25)


def test_answers_are_told_with_the_intervals_that_they_have():
    bare = {"positions": 9, "kl_mean": 0.25, "kl_p99": 1.5, "top1_agreement": 0.75}
    assert answer_row("v", bare) == {
        "variant": "v", "KL, mean": "0.25", "KL, 99th percentile": "1.5", "same top token": "75.0%",
    }  # fmt: skip
    more = {"kl_mean_low": 0.2, "kl_mean_high": 0.3, "top1_low": 0.7, "top1_high": 0.8,
            "perplexity_ratio": 1.1, "perplexity_low": 1.05, "perplexity_high": 1.15}  # fmt: skip
    row = answer_row("v", bare | more)
    assert row["KL, mean"] == "0.25 [0.2, 0.3]"
    assert row["same top token"] == "75.0% [70.0%, 80.0%]"
    assert row["perplexity"] == "x1.1000 [x1.0500, x1.1500]"


def test_one_table_has_one_number_of_positions():
    assert positions_of({"a": {"positions": 512}, "b": {"positions": 512}}) == 512
    with pytest.raises(ValueError, match=r"rows of \[512, 2048\] positions"):
        positions_of({"a": {"positions": 512}, "b": {"positions": 2048}})


def test_an_interval_without_width_is_not_told():
    kl, excess = (0.6, 0.55, 0.65), (0.7, 0.7, 0.7)
    told = sentences.against_nearest("m", 64, 2048, kl, excess)
    assert "60% [55, 65] of the KL of nearest and 70% of its excess perplexity" in told


def error(found, weight, hessian):
    """Squared error of the outputs on inputs whose second moments are given."""
    off = weight - found.dequantize()
    return float((off @ hessian * off).sum())


@pytest.mark.model
@torch.inference_mode()
def test_gptq_errs_less_than_nearest_on_text_it_never_saw(real_model):
    """Outputs of a real layer's matrices, squared, 4 bits in groups of 64."""
    decoder, tokenizer = real_model.decoder, real_model.tokenizer
    layer = decoder.layers[0]
    seen, unseen = (
        hessians(layer, [Stream(decoder, ids) for ids in pieces(tokenizer, purpose, 2048, 256)])
        for purpose in ("calibration", "evaluation")
    )
    for names in seen:
        weight = torch.cat([linears(layer)[name].weight for name in names])
        nearest = error(round_to_nearest(weight, 4, 64), weight, unseen[names])
        better = error(gptq(weight, seen[names], 4, 64), weight, unseen[names])
        assert better < 0.6 * nearest, names
