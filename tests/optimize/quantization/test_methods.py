"""Integers, scales and zero points by hand; and better methods measured against nearest."""

from __future__ import annotations

import sys
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import ParameterError
from labkit.limits.cost import decode_cost, vector_parameters
from labkit.model.rows import Rows
from labkit.optimize.quantization import gptq, hqq, linears, quantize, round_to_nearest
from labkit.optimize.quantization.calibration import Stream, hessians
from labkit.optimize.quantization.grid import full_range, grouped, searched_range, to_levels
from tests.tiny import tiny_decoder

solver = sys.modules["labkit.optimize.quantization.gptq"]
IDS = [list(range(n, n + 40)) for n in range(0, 50, 7)]


def correlated(rows: int, size: int) -> torch.Tensor:
    return torch.randn(rows, size) @ torch.randn(size, size)


def output_error(weight: torch.Tensor, found: torch.Tensor, hessian: torch.Tensor) -> float:
    off = weight - found
    return float((off @ hessian * off).sum())


def test_round_to_nearest_by_hand():
    found = round_to_nearest(torch.tensor([[0.0, 1.0, 2.0, 3.0, -1.0, 0.5, 1.0, 2.0]]), 2, 4)
    assert found.integers.tolist() == [[[0, 1, 2, 3], [0, 2, 2, 3]]]
    assert found.scale.flatten().tolist() == [1.0, 1.0]
    assert found.zero.flatten().tolist() == [0.0, 1.0]
    assert found.dequantize().tolist() == [[0, 1, 2, 3, -1, 1, 1, 2]]


def test_around_zero_by_hand():
    found = round_to_nearest(torch.tensor([[-127.0, 63.6, 0.0, 1.0]]), 8, None, symmetric=True)
    assert found.integers.tolist() == [[[1, 192, 128, 129]]]
    assert found.dequantize().tolist() == [[-127, 64, 0, 1]]
    assert found.symmetric
    assert found.nbytes == 4 + 2  # no zero point is kept


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("method", [round_to_nearest, hqq])
def test_the_error_is_within_a_step(bits, method):
    torch.manual_seed(0)
    weight = torch.randn(24, 64)
    found = method(weight, bits, 16)
    assert found.integers.max() <= 2**bits - 1
    error = (found.dequantize() - weight).unflatten(1, (-1, 16)).abs()
    # half a step; a hundredth more at 8 bits, where 16-bit zero points are coarser than a level
    within = 0.51 if bits < 8 else 0.6
    assert (error <= found.scale * (within if method is round_to_nearest else 2**bits)).all()
    assert found.nbytes == 24 * 64 * bits / 8 + 24 * 4 * 4


@given(st.integers(0, 10**6), st.sampled_from([2, 3, 4, 8]), st.sampled_from([8, 16, 32]))
@settings(max_examples=30, deadline=None)
def test_scales_and_zeros_are_what_16_bits_hold(seed, bits, group):
    torch.manual_seed(seed)
    weight = torch.randn(6, 32) * 10 ** torch.empty(6, 1).uniform_(-3, 3)
    x = correlated(64, 32)
    for found in (
        round_to_nearest(weight, bits, group),
        hqq(weight, bits, group),
        gptq(weight, x.T @ x, bits, group),
    ):
        assert torch.equal(found.scale, found.scale.half().float())
        assert torch.equal(found.zero, found.zero.half().float())
        assert (found.scale > 0).all()
        assert int(found.integers.max()) < 2**bits
        assert torch.isfinite(found.dequantize()).all()


def test_more_bits_are_closer():
    torch.manual_seed(0)
    weight = torch.randn(24, 64)
    errors = [(round_to_nearest(weight, b, 16).dequantize() - weight).norm() for b in (2, 3, 4, 8)]
    assert errors == sorted(errors, reverse=True)


def test_a_searched_range_is_never_worse_than_the_full_one():
    torch.manual_seed(0)
    groups, importance = grouped(torch.randn(20, 64), 3, 16), torch.rand(64) ** 4

    def error(scale, zero):
        off = groups - (to_levels(groups, scale, zero, 3) - zero) * scale
        return (importance.view(4, 16) * off * off).sum(-1)

    searched = error(*searched_range(groups, 3, importance))
    assert (searched <= error(*full_range(groups, 3)) * 1.0001).all()
    assert searched.sum() < 0.9 * error(*full_range(groups, 3)).sum()


@pytest.mark.parametrize("bits", [3, 4])
def test_gptq_gives_outputs_nearer_than_rounding_does(bits):
    torch.manual_seed(0)
    weight, inputs = torch.randn(48, 64), correlated(400, 64)
    hessian = inputs.T @ inputs
    nearest = output_error(weight, round_to_nearest(weight, bits, 16).dequantize(), hessian)
    found = gptq(weight, hessian, bits, 16, shrink=0.0)  # judged on the very inputs
    better = output_error(weight, found.dequantize(), hessian)
    assert better < 0.5 * nearest


@given(st.integers(0, 10**6), st.sampled_from([2, 3, 4]), st.sampled_from([8, 16, 48]))
@settings(max_examples=25, deadline=None)
def test_refinement_never_makes_outputs_worse(seed, bits, group):
    torch.manual_seed(seed)
    weight, inputs = torch.randn(12, 48), correlated(100, 48)
    hessian = solver.damped(inputs.T @ inputs, 0.01, 0.3)
    errors = [
        output_error(weight, gptq(weight, inputs.T @ inputs, bits, group, sweeps=n).dequantize(),
                     hessian)
        for n in range(4)
    ]  # fmt: skip
    assert all(after <= before * 1.001 for before, after in pairwise(errors))


def test_shrinking_leaves_the_diagonal_and_lifts_what_is_singular():
    hessian = torch.tensor([[4.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    found = solver.damped(hessian, 0.0, 0.25)
    assert found.tolist() == [[4, 1.5, 0], [1.5, 1, 0], [0, 0, 1]]
    assert torch.linalg.eigvalsh(found).min() > 0


def test_the_factor_is_that_of_the_inverse():
    torch.manual_seed(0)
    inputs = torch.randn(200, 24).double()
    hessian = inputs.T @ inputs
    factor = solver._inverse_factor(hessian)
    assert torch.equal(factor, factor.triu())
    assert torch.allclose(factor.T @ factor @ hessian, torch.eye(24).double(), atol=1e-9)


def test_gptq_with_uncorrelated_inputs_is_rounding():
    """With nothing to make up for, each weight goes to the nearest level of its searched scale."""
    torch.manual_seed(0)
    weight = torch.randn(8, 32)
    found = gptq(weight, torch.eye(32), 4, 16, damping=0.0, sweeps=0)
    groups = grouped(weight, 4, 16)
    expected = to_levels(groups, found.scale, found.zero, 4).to(torch.uint8)
    assert torch.equal(found.integers, expected)


def test_an_input_that_never_comes_does_not_break_gptq():
    hessian = torch.eye(32)
    hessian[3, 3] = 0
    assert torch.isfinite(gptq(torch.randn(8, 32), hessian, 4, 16).dequantize()).all()


def test_hessians_are_sums_over_what_goes_in():
    decoder = tiny_decoder()
    layer = decoder.layers[0]
    streams = [Stream(decoder, ids) for ids in IDS[:2]]
    found = hessians(layer, streams)
    x = torch.cat([layer.input_layernorm(stream.x) for stream in streams])
    first = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    assert torch.allclose(found[first], x.T @ x, rtol=1e-4)
    assert sorted(name for names in found for name in names) == sorted(linears(layer))


def logits(decoder, ids):
    return decoder(Rows.prefill(ids, all_logits=True), decoder.new_cache(1, len(ids)))


@pytest.mark.parametrize("method", ["rtn", "symmetric", "hqq", "gptq"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_quantized_decoder_is_near_and_its_source_untouched(method, tied):
    decoder = tiny_decoder(tied_head=tied)
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    made = quantize(decoder, method, 8, 16, IDS)
    exact, near = logits(decoder, IDS[0]), logits(made, IDS[0])
    assert 0 < (near - exact).abs().max() < 0.1 * exact.abs().max()
    assert all(torch.equal(before[name], t) for name, t in decoder.state_dict().items())
    tables = [made.decoder.embed_tokens.weight, made.decoder.lm_head.weight]
    assert (tables[0] is tables[1]) == tied


def test_weight_bytes_are_counted_from_the_tensors():
    decoder = tiny_decoder()
    made = quantize(decoder, "rtn", 4, 16)
    config = decoder.config
    weights = sum(m.weight.numel() for layer in decoder.layers for m in linears(layer).values())
    layers = weights / 2 + weights / 16 * 4
    head = config.vocab_size * (config.hidden_size + 2)
    assert made.weight_bytes == layers + head + vector_parameters(config) * 4
    kept = quantize(decoder, "rtn", 8, None, head_bits=None)
    assert made.weight_bytes < kept.weight_bytes < decode_cost(config, 0).weight_bytes


def test_every_matrix_of_the_layers_changes():
    decoder = tiny_decoder()
    made = quantize(decoder, "rtn", 3, 16).decoder
    for layer, other in zip(decoder.layers, made.layers, strict=True):
        for name, linear in linears(layer).items():
            assert not torch.equal(linear.weight, other.get_submodule(name).weight), name


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "awq"}, "'awq' is unknown; allowed: rtn, hqq, symmetric, gptq"),
        ({"bits": 7}, "7 bits"),
        ({"group": 7}, "groups of 7"),
        ({"group": 0}, "groups of 0"),
        ({"method": "gptq"}, "calibration"),
    ],
)
def test_bad_requests(changes, words):
    with pytest.raises(ParameterError, match=words):
        quantize(tiny_decoder(), **{"method": "rtn", "bits": 4, "group": 16} | changes)
