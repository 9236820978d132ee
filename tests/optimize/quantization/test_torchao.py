"""torchao's quantization where it is installed, and a clear word where it is not."""

from __future__ import annotations

import pytest
import torch

from labkit.errors import ParameterError
from labkit.model.rows import Rows
from labkit.optimize.quantization import torchao
from labkit.optimize.quantization.torchao import TorchaoError, quantize_with_torchao
from tests.tiny import tiny_decoder

SHAPE = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 128, "head_dim": 16, "heads": 4}
needed = pytest.mark.skipif(torchao.available() is not None, reason="torchao is optional")


@needed
@pytest.mark.parametrize(("bits", "within"), [(8, 0.05), (4, 0.6)])
def test_it_is_near_smaller_and_leaves_its_source_alone(bits, within):
    decoder, ids = tiny_decoder(**SHAPE), list(range(60))
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    made = quantize_with_torchao(decoder, bits, 32)
    exact, near = (
        d(Rows.prefill(ids, all_logits=True), d.new_cache(1, 60)) for d in (decoder, made)
    )
    assert 0 < (near - exact).norm() < within * exact.norm()
    assert made.weight_bytes < sum(p.nbytes for p in decoder.parameters()) / 2.5
    assert all(torch.equal(before[name], t) for name, t in decoder.state_dict().items())


@needed
def test_other_widths_are_refused():
    with pytest.raises(ParameterError, match="3 bits are not supported by torchao here"):
        quantize_with_torchao(tiny_decoder(**SHAPE), 3)


def test_without_it_the_remedy_is_told(monkeypatch):
    monkeypatch.setattr(torchao.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(TorchaoError, match="pip install"):
        quantize_with_torchao(tiny_decoder(), 8)
