"""Integers, scales and zero points by hand; and better methods measured against nearest."""

import pytest
import torch

from labkit.errors import ParameterError
from labkit.model.rows import Rows
from labkit.optimize.quantization import gptq, hqq, linears, quantize, round_to_nearest
from tests.tiny import tiny_decoder

IDS = [list(range(n, n + 40)) for n in range(0, 50, 7)]


def test_round_to_nearest_by_hand():
    found = round_to_nearest(torch.tensor([[0.0, 1.0, 2.0, 3.0, -1.0, 0.5, 1.0, 2.0]]), 2, 4)
    assert found.integers.tolist() == [[[0, 1, 2, 3], [0, 2, 2, 3]]]
    assert found.scale.flatten().tolist() == [1.0, 1.0]
    assert found.zero.flatten().tolist() == [0.0, 1.0]
    assert found.dequantize().tolist() == [[0, 1, 2, 3, -1, 1, 1, 2]]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("method", [round_to_nearest, hqq])
def test_the_error_is_within_a_step(bits, method):
    torch.manual_seed(0)
    weight = torch.randn(24, 64)
    found = method(weight, bits, 16)
    assert found.integers.max() <= 2**bits - 1
    error = (found.dequantize() - weight).unflatten(1, (-1, 16)).abs()
    assert (error <= found.scale * (0.51 if method is round_to_nearest else 2**bits)).all()
    assert found.nbytes == 24 * 64 * bits / 8 + 24 * 4 * 4


def test_more_bits_are_closer():
    torch.manual_seed(0)
    weight = torch.randn(24, 64)
    errors = [(round_to_nearest(weight, b, 16).dequantize() - weight).norm() for b in (2, 3, 4, 8)]
    assert errors == sorted(errors, reverse=True)


def test_gptq_gives_outputs_nearer_than_rounding_does():
    torch.manual_seed(0)
    weight, inputs = torch.randn(48, 64), torch.randn(400, 64) @ torch.randn(64, 64)
    exact = inputs @ weight.T
    nearest = inputs @ round_to_nearest(weight, 3, 16).dequantize().T
    better = inputs @ gptq(weight, inputs.T @ inputs, 3, 16).dequantize().T
    assert (better - exact).norm() < 0.8 * (nearest - exact).norm()


def test_gptq_with_uncorrelated_inputs_is_rounding():
    torch.manual_seed(0)
    weight = torch.randn(8, 32)
    found = gptq(weight, torch.eye(32), 4, 16, damping=0.0)
    assert torch.equal(found.integers, round_to_nearest(weight, 4, 16).integers)


def test_an_input_that_never_comes_does_not_break_gptq():
    hessian = torch.eye(32)
    hessian[3, 3] = 0
    assert torch.isfinite(gptq(torch.randn(8, 32), hessian, 4, 16).dequantize()).all()


def logits(decoder, ids):
    return decoder(Rows.prefill(ids, all_logits=True), decoder.new_cache(1, len(ids)))


@pytest.mark.parametrize("method", ["rtn", "hqq", "gptq"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_quantized_decoder_is_near_and_its_source_untouched(method, tied):
    decoder = tiny_decoder(tied_head=tied)
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    made = quantize(decoder, method, 8, 16, IDS)
    exact, near = logits(decoder, IDS[0]), logits(made.decoder, IDS[0])
    assert 0 < (near - exact).abs().max() < 0.1 * exact.abs().max()
    assert all(torch.equal(before[name], t) for name, t in decoder.state_dict().items())
    weights = {p.data_ptr(): p for p in made.decoder.parameters()}
    assert made.weight_bytes < sum(p.nbytes for p in weights.values()) / 2


def test_every_matrix_of_the_layers_changes():
    decoder = tiny_decoder()
    made = quantize(decoder, "rtn", 3, 16).decoder
    for layer, other in zip(decoder.layers, made.layers, strict=True):
        for name, linear in linears(layer).items():
            assert not torch.equal(linear.weight, other.get_submodule(name).weight), name


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "awq"}, "'awq' is unknown; allowed: rtn, hqq, gptq"),
        ({"bits": 7}, "7 bits"),
        ({"group": 7}, "groups of 7"),
        ({"method": "gptq"}, "calibration"),
    ],
)
def test_bad_requests(changes, words):
    with pytest.raises(ParameterError, match=words):
        quantize(tiny_decoder(), **{"method": "rtn", "bits": 4, "group": 16} | changes)
