"""What float16 cannot hold is refused, in a cache and in the scales of rounded weights; and so are
weights of a directory that are no numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from labkit.errors import ModelError
from labkit.model.load import load
from labkit.model.rows import Part, Rows
from labkit.optimize.fused import FusedDecoder, load_fused
from labkit.optimize.fused.pack import FORMATS, ROUNDED, from_blocks, to_blocks
from labkit.optimize.fused.weights import packed
from tests.conftest import make_reference
from tests.fused_helpers import SIZES, plain_twin
from tests.model.test_gguf_file import gguf_weights, write_gguf
from tests.optimize.fused.test_formats import RUN
from tests.tiny import whole

IDS = [(7 * n * n + 3 * n) % 97 for n in range(40)]
NAN, INFINITE = float("nan"), float("inf")


def scaled_gguf(path: Path, large: str, small: str, name: str = "llama") -> Path:
    """A tiny model in floats; one matrix is 1e6 times as large, and the next one as much smaller,
    so that its logits are the same but for rounding."""
    reference = make_reference(name, **SIZES)
    weights = gguf_weights(reference)
    weights[f"blk.1.{large}.weight"] *= np.float32(1e6)
    weights[f"blk.1.{small}.weight"] /= np.float32(1e6)
    return write_gguf(path, reference, weights)


@pytest.mark.parametrize("isa", RUN)
@pytest.mark.parametrize(
    ("large", "small"), [("attn_v", "attn_output"), ("attn_k", "attn_q")], ids=["values", "keys"]
)
@pytest.mark.parametrize("rows", [1, 9, 40])
def test_keys_and_values_beyond_float16_are_refused(
    tmp_path: Path, large: str, small: str, rows: int, isa: str
) -> None:
    file = scaled_gguf(tmp_path / "tiny.gguf", large, small)
    decoder = FusedDecoder(packed(file, threads=2), isa)
    cache = decoder.new_cache(1, 48)
    for call in (
        lambda: decoder(Rows.prefill(IDS[:rows]), cache),
        lambda: decoder.greedy([Part(0, 0, IDS[:rows])], cache),
        lambda: decoder.greedy([whole(0, 0, IDS[:rows], guesses=True)], cache),
    ):
        with pytest.raises(ModelError, match="larger than float16 can hold.*float32"):
            call()
        assert cache.length(0) == 0
        assert cache.store.keys.isfinite().all()
        assert cache.store.values.isfinite().all()
    plain = plain_twin(file)
    expected = plain(Rows.prefill(IDS[:rows]), plain.new_cache(1, 48))
    found = decoder(Rows.prefill(IDS[:rows]), decoder.new_cache(1, 48, torch.float32))
    assert (found - expected).abs().max() <= 2e-2 * expected.abs().max()


def change(directory: Path, name: str, how: Callable[[torch.Tensor], object]) -> None:
    weights = load_file(directory / "model.safetensors")
    how(weights[name])
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("value", [NAN, INFINITE, -INFINITE])
@pytest.mark.parametrize(
    "name",
    [
        "model.norm.weight", "model.layers.0.input_layernorm.weight",
        "model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight", "lm_head.weight",
    ],
)  # fmt: skip
def test_a_directory_with_weights_that_are_no_numbers(
    directory: Path, name: str, value: float
) -> None:
    change(directory, name, lambda tensor: tensor[3].fill_(value))
    for _ in range(2):  # nothing is kept of it
        with pytest.raises(ModelError, match=f"{name.removeprefix('model.')} has numbers that are"):
            load_fused(directory, "q8_0")


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("form", ROUNDED)
@pytest.mark.parametrize("by", [1e9, 1e-7])
def test_weights_that_no_scale_of_float16_holds(directory: Path, form: str, by: float) -> None:
    change(directory, "model.layers.1.self_attn.v_proj.weight", lambda tensor: tensor.mul_(by))
    load(directory, "cpu")
    words = "too large" if by > 1 else "too small"
    with pytest.raises(
        ModelError, match=f"layers.1.self_attn.v_proj.weight cannot be rounded.*{words}"
    ):
        load_fused(directory, form)


@pytest.mark.parametrize("form", ROUNDED)
def test_what_is_rounded_is_near_whatever_its_size(form: str) -> None:
    """Right to the format's step of the largest weight, or refused."""
    values = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    values[2, 32:] *= 1e-6  # a block of small ones beside others
    values[5] = 0
    refused = []
    for power in range(-12, 9):
        given = values * np.float32(10.0**power)
        try:
            found = from_blocks(to_blocks(given, FORMATS[form]), FORMATS[form])
        except ValueError:
            refused.append(power)
            continue
        step = {"q8_0": 1 / 127, "q5_0": 1 / 15, "q4_0": 1 / 7, "q4_1": 1 / 7}[form]
        assert np.abs(found - given).max() <= step * np.abs(given).max()
    assert refused == [p for p in range(-12, 9) if p in refused and not -3 <= p <= 4]
    assert {-12, -7, 8} <= set(refused)
    zeros = to_blocks(np.zeros((2, 32), np.float32), FORMATS[form])
    assert not from_blocks(zeros, FORMATS[form]).any()
