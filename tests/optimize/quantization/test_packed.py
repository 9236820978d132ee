"""Packed integers against their dequantized twin: the same answers, fewer bytes."""

from __future__ import annotations

import pytest
import torch

from labkit.engine.generate import generate
from labkit.model.rows import Rows
from labkit.optimize.quantization import PackingError, pack, quantize, round_to_nearest
from labkit.optimize.quantization.packed import Int4Linear, Int8Linear
from labkit.quality.lossless import same_answer
from tests.tiny import tiny_decoder

SHAPE = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 128, "head_dim": 16, "heads": 4}
KINDS = [("symmetric", 8, None), ("rtn", 4, 32), ("gptq", 4, 32)]
IDS = [list(range(60)), list(range(40, 100))]


def wide(**changes):
    """A tiny decoder of sizes that the kernels take."""
    return tiny_decoder(**SHAPE | changes)


def config_rows(decoder):
    """Rows of all matrices."""
    return sum(m.out_features for m in decoder.modules() if isinstance(m, torch.nn.Linear))


def logits(decoder, ids):
    return decoder(Rows.prefill(ids, all_logits=True), decoder.new_cache(1, len(ids)))


@pytest.mark.parametrize("rows", [1, 3, 50])
def test_a_packed_product_is_the_dequantized_one(rows):
    torch.manual_seed(0)
    weight, bias, x = torch.randn(64, 128), torch.randn(64), torch.randn(rows, 128)
    for packed, matrix in (
        (Int4Linear, round_to_nearest(weight, 4, 64)),
        (Int8Linear, round_to_nearest(weight, 8, None, symmetric=True)),
    ):
        expected = x @ matrix.dequantize().T + bias
        assert torch.allclose(packed(matrix, bias, torch.float32)(x), expected, atol=1e-4)
        off = packed(matrix, bias, torch.bfloat16)(x) - expected
        assert 0 < off.norm() < 0.01 * expected.norm()


@pytest.mark.parametrize(("method", "bits", "group"), KINDS)
@pytest.mark.parametrize("changes", [{}, {"tied_head": False}, {"attention_bias": True}])
def test_a_packed_decoder_gives_its_twins_answers(method, bits, group, changes):
    twin = quantize(wide(**changes), method, bits, group, IDS)
    packed = pack(twin, torch.float32)
    expected = logits(twin, IDS[0])
    assert torch.allclose(logits(packed, IDS[0]), expected, atol=1e-3 * float(expected.abs().max()))
    tokens = [list(generate(d, IDS[1][:20], 20)) for d in (twin, packed)]
    assert same_answer(twin, IDS[1][:20], *tokens).lossless


@pytest.mark.parametrize(("method", "bits", "group"), KINDS)
def test_in_bfloat16_it_stays_near(method, bits, group):
    twin = quantize(wide(), method, bits, group, IDS)
    expected = logits(twin, IDS[0])
    assert 0 < (logits(pack(twin), IDS[0]) - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize(("method", "bits", "group"), KINDS)
def test_bytes_are_those_of_the_tensors(method, bits, group):
    plain = wide()
    twin = quantize(plain, method, bits, group, IDS)
    packed = pack(twin)
    own = {t.data_ptr(): t.nbytes for m in packed.modules() for t in vars(m).values()
           if isinstance(t, torch.Tensor)}  # fmt: skip
    vectors = sum(p.nbytes for p in packed.parameters())
    assert packed.weight_bytes == sum(own.values()) + vectors
    scales = config_rows(plain) * 2  # of 8 bits: float32 here, 16 bits there
    assert 0 <= packed.weight_bytes - twin.weight_bytes <= scales
    assert packed.weight_bytes < sum(p.nbytes for p in plain.parameters()) / 2.5


def test_a_head_left_alone_stays():
    twin = quantize(wide(), "rtn", 4, 32, head_bits=None)
    assert isinstance(pack(twin).lm_head, torch.nn.Linear)


@pytest.mark.parametrize(
    ("method", "bits", "group"), [("rtn", 8, 32), ("rtn", 8, None), ("rtn", 3, 32), ("rtn", 4, 16)]
)
def test_what_no_kernel_runs_is_refused(method, bits, group):
    with pytest.raises(PackingError, match=f"no kernel for {bits} bits"):
        pack(quantize(wide(), method, bits, group))
