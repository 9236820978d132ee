"""Mixtures of experts in the fused decoder: against the plain twin, in company, and from files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from torch import nn

from labkit.bench.client import gguf_read_bytes
from labkit.errors import ModelError
from labkit.limits.cost import router_parameters
from labkit.model.decoder import Decoder
from labkit.model.gguf_header import GgufFile
from labkit.model.load import load
from labkit.model.rows import Part, Rows
from labkit.optimize.fused import FusedDecoder, FusedError, load_fused
from labkit.optimize.fused.layout import stages
from labkit.optimize.fused.pack import FORMATS, from_blocks, to_blocks
from tests.conftest import make_reference
from tests.fused_helpers import (
    SIZES,
    Int8Linear,
    leave_alone,
    logits,
    mixed_gguf,
    plain_twin,
    tiny_gguf,
)
from tests.model.test_gguf_file import Weights, gguf_weights, write_gguf
from tests.tiny import whole

IDS = [(7 * n * n + 3 * n) % 97 for n in range(200)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf", "qwen3-moe", "Q8_0")


@pytest.fixture(scope="module")
def fused(file: Path) -> FusedDecoder:
    return load_fused(file, threads=2)


def rounded_twin(directory: Path, form: str) -> Decoder:
    """The plain decoder of a directory over the values that rounding gives, with int8 inputs."""
    decoder = load(directory, "cpu").decoder
    for name, module in decoder.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            own = FORMATS["q8_0" if name in ("lm_head", "embed_tokens") else form]
            exact = from_blocks(to_blocks(module.weight.numpy(), own), own)
            module.weight.copy_(torch.from_numpy(exact))
        if isinstance(module, nn.Linear):
            module.__class__ = Int8Linear
    return decoder


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("name", ["qwen3-moe", "qwen3-moe-some"])
def test_a_directory_says_what_its_plain_twin_says(tmp_path: Path, name: str) -> None:
    make_reference(name, **SIZES).save_pretrained(tmp_path / "tiny")
    fused = load_fused(tmp_path / "tiny", "q8_0", threads=2)
    expected = logits(rounded_twin(tmp_path / "tiny", "q8_0"), IDS)
    found = fused(Rows.prefill(IDS, all_logits=True), fused.new_cache(1, 200, torch.float32))
    off, spread = (found - expected).abs().mean(1), expected.std()
    assert off[:3].max() < 1e-5 * spread
    assert off.mean() < 0.01 * spread
    assert torch.equal(logits(fused, IDS), logits(fused, IDS, 9))
    assert fused.formats == ["q8_0"]


@pytest.mark.usefixtures("own_cache")
def test_a_file_and_a_directory_of_the_same_blocks_say_the_same(tmp_path: Path) -> None:
    reference = make_reference("qwen3-moe", **SIZES)
    reference.save_pretrained(tmp_path / "tiny")
    file = write_gguf(
        tmp_path / "tiny.gguf", reference, gguf_weights(reference), GGMLQuantizationType.Q8_0
    )
    found = load_fused(tmp_path / "tiny", "q8_0", threads=1)
    assert torch.equal(logits(load_fused(file, threads=1), IDS), logits(found, IDS))


MIXES = [["q4_k", "q6_k", "q5_0", "q8_0"], ["iq4_xs", "bf16", "q3_k", "q2_k", "q5_k"], ["f16"]]


@pytest.mark.parametrize("kinds", MIXES, ids="+".join)
def test_experts_of_any_formats(tmp_path: Path, kinds: list[str]) -> None:
    file = mixed_gguf(tmp_path / "mixed.gguf", kinds, "qwen3-moe")
    fused = load_fused(file, threads=2)
    expected, found = logits(plain_twin(file), IDS[:40]), logits(fused, IDS[:40])
    assert (found - expected).abs().mean() <= 3e-2 * expected.abs().mean()
    assert torch.equal(found, logits(load_fused(file, threads=3), IDS[:40], chunk=5))


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0"])
def test_a_router_of_any_format_is_read_exactly(tmp_path: Path, kind: str) -> None:
    reference = make_reference("qwen3-moe", **SIZES)
    weights, raw = gguf_weights(reference), {}
    form = FORMATS[kind.lower()]
    for name, values in weights.items():
        if "ffn_gate_inp" in name:
            from gguf.quants import quantize

            stored = quantize(values, GGMLQuantizationType[kind]).view(np.uint8)
            raw[name] = stored.reshape(len(values), -1), GGMLQuantizationType[kind]
    file = write_gguf(
        tmp_path / "tiny.gguf", reference, weights, GGMLQuantizationType.Q8_0, raw=raw
    )
    fused = load_fused(file, threads=2)
    assert {e.format for n, e in fused.packed.entries.items() if n.endswith("mlp.gate.weight")} == {
        "f32"
    }
    found = fused(Rows.prefill(IDS[:3], all_logits=True), fused.new_cache(1, 3, torch.float32))
    expected = logits(plain_twin(file), IDS[:3])
    assert form.name != "f32"
    assert (found - expected).abs().mean() < 1e-5 * expected.std()


def test_each_instruction_set_and_the_first_thread_alone_give_the_same_bits(
    file: Path, fused: FusedDecoder
) -> None:
    expected = logits(fused, IDS)
    assert torch.equal(logits(load_fused(file, threads=1, isa="portable"), IDS[:60]), expected[:60])
    leave_alone(fused, 1000)
    assert torch.equal(logits(fused, IDS), expected)
    leave_alone(fused, 0)


def test_equal_experts_go_by_their_numbers(file: Path, fused: FusedDecoder) -> None:
    """With routers of zeros a row takes the first experts, each with half its weight."""
    twin, even = plain_twin(file), load_fused(file, threads=2)
    for name in (name for name in even.packed.entries if name.endswith("mlp.gate.weight")):
        entry, location = even.packed.entries[name], even.packed.locations[name]
        for start, _, count in location.shares(entry):
            even.packed.blob[start : start + count * location.stride] = 0
    for layer in twin.layers:
        layer.mlp.gate.weight.zero_()  # type: ignore[union-attr,operator]
    found = even(Rows.prefill(IDS[:3], all_logits=True), even.new_cache(1, 3, torch.float32))
    expected = logits(twin, IDS[:3])
    assert (found - expected).abs().max() < 1e-4 * expected.std()
    assert not torch.equal(found, logits(fused, IDS[:3]))


def test_greedy_tokens_are_those_of_the_logits(fused: FusedDecoder) -> None:
    cache = fused.new_cache(1, 64)
    best = fused.greedy([whole(0, 0, IDS[:30])], cache)[0]
    assert best == logits(fused, IDS[:30]).argmax(-1).tolist()
    tree = Part(0, 30, [5, 6, 7, 8], 4, parents=(-1, 0, 0, 1), guesses=False)
    assert len(fused.greedy([tree], cache)[0]) == 4


def test_one_row_reads_its_own_experts(fused: FusedDecoder) -> None:
    held = {name: entry.nbytes for name, entry in fused.packed.entries.items()}
    experts = sum(nbytes for name, nbytes in held.items() if ".experts." in name)
    assert experts == 3 * 6 * 3 * 64 * 32 * 34 // 32
    idle = experts * 4 // 6
    left_out = held["embed_tokens.weight"] + held["screen.weight"] + held["screen.error"]
    assert fused.all_logits_bytes == sum(held.values()) - left_out - idle
    routers = sum(nbytes for name, nbytes in held.items() if name.endswith("mlp.gate.weight"))
    assert routers == 3 * 16 * 64 * 4  # six rows, filled up to sixteen
    assert router_parameters(fused.config) == 3 * 6 * 64


def test_the_order_in_memory_is_that_of_a_pass(fused: FusedDecoder) -> None:
    order = stages(name for name, entry in fused.packed.entries.items() if entry.format)
    assert order[4] == ("layers.0.mlp.gate.weight",)
    of = "layers.0.mlp.experts."
    assert order[5] == (f"{of}0.gate_proj.weight", f"{of}0.up_proj.weight")
    assert order[10][0] == f"{of}5.gate_proj.weight"
    assert order[11:17] == [(f"{of}{n}.down_proj.weight",) for n in range(6)]


STACKED = "blk.1.ffn_up_exps.weight"
CHANGES: list[tuple[Callable[[Weights], object], str]] = [
    (lambda w: w.pop(STACKED), "lack 6 tensors, first layers.1.mlp.experts.0.up_proj"),
    (lambda w: w.pop("blk.0.ffn_gate_inp.weight"), "lack 1 tensors, first layers.0.mlp.gate"),
    (lambda w: w.update({STACKED: w[STACKED][:5]}), r"\(5, 32, 64\), not those of 6 experts"),
    (lambda w: w.update({STACKED: w[STACKED][0]}), r"\(32, 64\), not those of 6 experts"),
    (lambda w: w.update({STACKED: w[STACKED][:, :16]}), r"has shape \(16, 64\), the config says"),
    (lambda w: w.update({"blk.0.ffn_up.weight": np.ones((96, 64), np.float32)}), "not the model's"),
]


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_a_file_whose_experts_are_not_its_keys(
    tmp_path: Path, change: Callable[[Weights], object], words: str
) -> None:
    reference = make_reference("qwen3-moe", **SIZES)
    weights = gguf_weights(reference)
    change(weights)
    file = write_gguf(tmp_path / "tiny.gguf", reference, weights, GGMLQuantizationType.Q8_0)
    for loader in (lambda: load(file, "cpu"), lambda: load_fused(file)):
        with pytest.raises(ModelError, match=words) as error:
            loader()
        assert "\n" not in str(error.value)


@pytest.mark.usefixtures("own_cache")
def test_an_expert_size_that_blocks_do_not_divide_is_named(tmp_path: Path) -> None:
    make_reference("qwen3-moe", **SIZES | {"moe_intermediate_size": 40}).save_pretrained(tmp_path)
    with pytest.raises(
        FusedError, match="needs an expert size that 32 divides; this model's is 40"
    ):
        load_fused(tmp_path, "q8_0")


def test_another_engine_is_charged_the_experts_that_a_row_uses(file: Path) -> None:
    sizes = {name: tensor.nbytes for name, tensor in GgufFile(file).tensors.items()}
    experts = sum(nbytes for name, nbytes in sizes.items() if "_exps" in name)
    assert experts == 3 * 6 * 3 * 64 * 32 * 34 // 32
    read = sum(sizes.values()) - sizes["token_embd.weight"] - experts * 4 // 6
    assert gguf_read_bytes(file) == read
