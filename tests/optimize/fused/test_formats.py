"""Every block format: weights to the bit, products, and any mix of formats in one file."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from labkit.base.memory import allocate
from labkit.model.gguf_file import half_split, weights_of
from labkit.model.gguf_header import GgufFile
from labkit.optimize.fused import FusedError, load_fused, native, structs
from labkit.optimize.fused.pack import FORMATS, LANES, Format, format_of, from_blocks, interleave
from labkit.optimize.fused.sources import gguf_weights
from tests.fused_helpers import logits, mixed_gguf, plain_twin, random_blocks

ROWS, COLUMNS = 37, 512
_WIDER = ("avx512vnni", "avx2", "portable")  # each can run on what runs those before it
_HERE = native.library().lk_isa().decode()
RUN = _WIDER[_WIDER.index(_HERE) :] if _HERE in _WIDER else (_HERE, "portable")


class Packed:
    """Random blocks of a format as the kernel reads them, on one thread."""

    def __init__(self, form: Format, isa: str) -> None:
        self.library, self.blocks = native.library(isa), random_blocks(form, ROWS, COLUMNS)
        groups = -(-ROWS // LANES)
        stride = LANES * self.blocks.shape[1] * form.nbytes
        self.memory = allocate(groups * stride)
        start = int(self.memory.ctypes.data)
        interleave(self.library, self.blocks, form, start, stride)
        self.starts = (ctypes.c_void_p * 1)(start)
        self.matrix = structs.Matrix(
            ctypes.addressof(self.starts), None, stride, ROWS, COLUMNS, form.number, groups
        )
        self.width = groups * LANES

    def rows(self) -> np.ndarray:
        found = np.zeros((ROWS, COLUMNS), np.float32)
        for row in range(ROWS):
            self.library.lk_row(self.matrix, row, found[row].ctypes.data)
        return found

    def product(self, x: np.ndarray) -> np.ndarray:
        given, out = np.ascontiguousarray(x), np.zeros((len(x), self.width), np.float32)
        self.library.lk_product(self.matrix, given.ctypes.data, len(x), out.ctypes.data)
        return out


@pytest.fixture(scope="module")
def packed() -> Callable[[str, str], Packed]:
    made: dict[tuple[str, str], Packed] = {}

    def make(name: str, isa: str) -> Packed:
        if (name, isa) not in made:
            made[name, isa] = Packed(FORMATS[name], isa)
        return made[name, isa]

    return make


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(29, COLUMNS)).astype(np.float32)


@pytest.mark.parametrize("isa", RUN)
@pytest.mark.parametrize("name", FORMATS)
def test_weights_are_those_of_the_file_to_the_bit(packed, name: str, isa: str) -> None:
    found = packed(name, isa)
    assert np.array_equal(found.rows(), from_blocks(found.blocks, FORMATS[name]))


@pytest.mark.parametrize("isa", RUN)
@pytest.mark.parametrize("name", FORMATS)
def test_products_are_those_of_the_weights(packed, tokens, name: str, isa: str) -> None:
    found = packed(name, isa)
    parts = tokens.reshape(len(tokens), -1, 32)
    scales = np.abs(parts).max(-1, keepdims=True) / np.float32(127)
    rounded = (np.rint(parts / scales) * scales).reshape(len(tokens), -1).astype(np.float64)
    expected = rounded @ from_blocks(found.blocks, FORMATS[name]).T.astype(np.float64)
    out = found.product(tokens)
    assert np.abs(out[:, :ROWS] - expected).max() <= 2e-6 * np.abs(expected).max()
    assert not out[:, ROWS:].any()  # lanes without a row


@pytest.mark.parametrize("name", FORMATS)
def test_a_token_has_the_same_bits_alone_and_on_every_processor(packed, tokens, name: str) -> None:
    first = packed(name, RUN[0]).product(tokens)
    for isa in RUN:
        found = packed(name, isa)
        assert np.array_equal(found.product(tokens), first)
        for count in (1, 5, 13):
            assert np.array_equal(found.product(tokens[:count]), first[:count])


MIXES = [
    *([name] for name in FORMATS),
    ["q4_k", "q6_k", "q5_0", "q8_0"],  # llama.cpp's Q4_K_M where 256 does not divide all rows
    ["q2_k", "q3_k", "q5_k", "iq4_xs", "iq4_nl", "bf16"],
]


@pytest.mark.parametrize("kinds", MIXES, ids="+".join)
def test_a_file_of_any_formats_says_what_its_plain_twin_says(
    tmp_path: Path, kinds: Sequence[str]
) -> None:
    file = mixed_gguf(tmp_path / "mixed.gguf", kinds)
    ids = list(range(3, 40))
    found, expected = logits(load_fused(file, threads=2), ids), logits(plain_twin(file), ids)
    # Inputs near a tie round either way, and the cache holds halves.
    assert (found - expected).abs().max() <= 8e-2 * expected.abs().max()
    assert (found - expected).abs().mean() <= 3e-2 * expected.abs().mean()
    assert torch.equal(found, logits(load_fused(file, threads=1), ids, chunk=5))


@pytest.mark.parametrize(("name", "heads"), [("self_attn.q_proj", 4), ("self_attn.k_proj", 2)])
def test_rows_that_are_put_back_in_order_can_be_read_from_anywhere(
    tmp_path: Path, name: str, heads: int
) -> None:
    """Files of the llama architecture have the rows of queries and keys in another order."""
    path = mixed_gguf(tmp_path / "mixed.gguf", ["q4_k", "q8_0"])
    found = {one.name: one for one in gguf_weights(path)[1]}[f"layers.1.{name}.weight"]
    file = GgufFile(path)
    stored = file.read(dict(weights_of(file))[f"model.layers.1.{name}.weight"])
    whole = half_split(stored, heads).reshape(found.whole().shape)
    for first, count in ((0, len(whole)), (0, 16), (48, 32), (80, 48), (64, 64)):
        assert np.array_equal(found.read(first, count), whole[first : first + count])


def test_a_format_that_is_not_read_is_named() -> None:
    with pytest.raises(FusedError, match=r"IQ1_S is not supported.*Q4_K, Q5_K, Q6_K"):
        format_of("iq1_s")
