"""What each engine would run, and what is said of what cannot; and the figure, on real layers."""

from __future__ import annotations

import pytest
import torch

from labkit.errors import LabkitError, ParameterError
from labkit.limits.cost import decode_cost
from labkit.model.cache.quantized import QuantizedCache
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
from labkit.workload.texts import pieces
from tests.tiny import tiny_decoder


def test_names_of_what_engines_run(tmp_path):
    decoder = tiny_decoder()
    made = {
        "four": quantize(decoder, "rtn", 4, 16),
        "eight": quantize(decoder, "symmetric", 8, None),
    }
    found = variants.makers(["torch", "fused"], decoder, made, tmp_path, 16)
    assert list(found) == ["four", "eight", "fused, as-is", "fused, q8_0", "fused, q4_0"]
    assert list(variants.makers([], decoder, made, tmp_path, 16)) == []
    with pytest.raises(ParameterError, match="'cuda' is unknown; allowed: torch, torchao, fused"):
        variants.makers(["torch", "cuda"], decoder, made, tmp_path, 16)


def test_what_cannot_be_made_says_why_and_the_rest_is_made():
    def broken():
        raise LabkitError("no such kernel")

    made, missing = variants.attempt({"good": lambda: 1, "bad": broken})
    assert made == {"good": 1}
    assert missing == {"bad": "no such kernel"}


def test_a_mistake_of_ours_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        variants.attempt({"bug": lambda: 1 / 0})


def test_cache_bytes_a_token():
    decoder = tiny_decoder()
    config = decoder.config
    assert variants.kv_bytes(decoder) == config.kv_bytes_per_token(4)
    heads = 2 * config.layers * config.kv_heads
    eight = WithQuantizedCache(decoder)
    assert isinstance(eight.new_cache(1, 4), QuantizedCache)
    assert variants.kv_bytes(eight) == heads * (config.head_dim + 2)


def test_bytes_of_weights_are_the_decoders_own_where_it_knows_them():
    decoder = tiny_decoder()
    quantized = quantize(decoder, "symmetric", 8, None)
    assert variants.weight_bytes(decoder, 17.0) == 17.0
    assert variants.weight_bytes(WithQuantizedCache(decoder), 17.0) == read_bytes(decoder)
    assert variants.weight_bytes(quantized, 17.0) == quantized.weight_bytes > 17.0
    packed = pack(quantized)
    assert variants.weight_bytes(packed, 17.0) == packed.weight_bytes > 17.0


def test_the_cost_of_a_token_with_other_bytes():
    config = tiny_decoder().config
    plain = decode_cost(config, 50)
    kv = config.kv_bytes_per_token(4)
    assert variants.cost_of(config, plain.weight_bytes, kv, 50) == plain
    less = variants.cost_of(config, 1000, kv / 4, 50)
    assert less.read_bytes == 1000 + plain.kv_read_bytes / 4
    assert less.kv_write_bytes == kv / 4
    assert less.flops == plain.flops


def test_the_caches_share_grows_as_weights_shrink():
    config = tiny_decoder().config
    weights = decode_cost(config, 0, dtype="bfloat16").weight_bytes
    cache = 100 * config.kv_bytes_per_token(2)
    assert variants.share_of_cache(config, 100, 16, 2) == cache / (weights + cache)
    assert variants.share_of_cache(config, 100, 4, 2) == cache / (weights / 4 + cache)
    assert all(len(row) == 5 for row in variants.cache_shares(8192))


def test_a_variant_above_its_limit_has_no_negative_rest():
    parts = {"part": 0.2, "speedup": 4.0, "token": 0.010}
    assert "2 ms of each token" in sentences.beyond_limit("v", fraction=0.8, **parts)
    above = sentences.beyond_limit("v", fraction=1.1, **parts)
    assert "no measurable rest" in above
    assert "-" not in above


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
