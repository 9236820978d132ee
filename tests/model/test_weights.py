"""Bytes of weights that a pass reads, against the ledger and against what the tensors hold."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from labkit.limits.cost import weight_read_bytes
from labkit.model.weights import counted_bytes, read_bytes
from tests.tiny import tiny_decoder


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_they_are_those_of_the_ledger(tied, dtype):
    decoder = tiny_decoder(tied_head=tied, attention_bias=True).to(getattr(torch, dtype))
    assert read_bytes(decoder) == weight_read_bytes(decoder.config, 1, dtype)


def test_a_decoder_that_knows_its_bytes_is_asked():
    assert read_bytes(SimpleNamespace(weight_bytes=12.5)) == 12.5
    with pytest.raises(TypeError, match="SimpleNamespace is no torch module"):
        read_bytes(SimpleNamespace())


def test_a_shared_tensor_counts_once_and_a_table_one_row():
    table, other = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
    other.weight = table.weight
    assert counted_bytes(nn.Sequential(table, other)) == 160
    assert counted_bytes(nn.Sequential(table, nn.Linear(4, 10))) == 16 + 160 + 40


class Packed(nn.Module):
    """Three bytes that are no parameter, beside a parameter of four."""

    weight_bytes = 3.0

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


def test_packed_parts_add_what_their_parameters_do_not_show():
    assert counted_bytes(nn.Sequential(Packed(), Packed())) == 14
    assert counted_bytes(Packed()) == 4  # its own word is not asked of the whole
