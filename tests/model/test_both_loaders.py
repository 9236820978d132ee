"""Models that only one loader refused, or that one computed wrongly without a word."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file, save_file

from labkit.errors import ModelError
from labkit.model.load import load
from labkit.optimize.fused import load_fused
from tests.conftest import make_reference
from tests.fused_helpers import SIZES, logits
from tests.model.test_gguf_file import gguf_weights, write_gguf

IDS = list(range(3, 20))
Change = Callable[[dict[str, torch.Tensor]], object]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    make_reference("llama-tied", **SIZES).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def refused_by_both(model: Path, words: str) -> None:
    weights = "as-is" if model.suffix == ".gguf" else "q8_0"
    for loader in (lambda: load(model, "cpu"), lambda: load_fused(model, weights)):
        with pytest.raises(ModelError, match=words):
            loader()


STRAY = "blk.0.attn_q.bias", "blk.0.attn_q_norm.weight"
CHANGES = [
    (lambda w: w.pop("blk.1.attn_norm.weight"), "lack 1 tensors, first layers.1.input_layernorm"),
    (lambda w: w.update({STRAY[1]: torch.ones(16).numpy()}), "not the model's.*q_norm"),
    (lambda w: w.update({"blk.0.ffn_up.bias": torch.ones(96).numpy()}), "not the model's.*up_proj"),
    (lambda w: w.pop("blk.0.attn_k.weight"), "lack 1 tensors, first layers.0.self_attn.k_proj"),
    (
        lambda w: w.update({"blk.0.ffn_gate.weight": w["blk.0.ffn_gate.weight"][:64]}),
        r"gate_proj.weight has shape \(64, 64\), the config says \(96, 64\)",
    ),
    (lambda w: w.update({"output_norm.weight": torch.ones(32).numpy()}), r"norm.weight has shape"),
]


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(("change", "words"), CHANGES)
def test_a_gguf_whose_tensors_are_not_the_configs(
    tmp_path: Path, change: Change, words: str
) -> None:
    reference = make_reference("llama", **SIZES)
    weights = gguf_weights(reference)
    change(weights)  # type: ignore[arg-type]
    file = write_gguf(tmp_path / "tiny.gguf", reference, weights, GGMLQuantizationType.Q8_0)
    refused_by_both(file, words)


@pytest.mark.usefixtures("own_cache")
def test_qwen2_without_a_bias(tmp_path: Path) -> None:
    reference = make_reference("qwen2", **SIZES)
    weights = gguf_weights(reference)
    del weights["blk.0.attn_k.bias"]
    file = write_gguf(tmp_path / "tiny.gguf", reference, weights, GGMLQuantizationType.Q8_0)
    refused_by_both(file, "lack 1 tensors, first layers.0.self_attn.k_proj.bias")


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(
    "changes",
    [
        {"intermediate_size": 64}, {"hidden_size": 32}, {"num_attention_heads": 8},
        {"num_hidden_layers": 4}, {"num_hidden_layers": 1}, {"vocab_size": 96},
        {"model_type": "qwen2"}, {"tie_word_embeddings": False},
    ],
)  # fmt: skip
def test_a_config_of_another_model(directory: Path, changes: dict[str, object]) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    refused_by_both(directory, "tensors|has shape|divide")


@pytest.mark.usefixtures("own_cache")
def test_a_tied_model_with_another_head_uses_that_head(directory: Path) -> None:
    from transformers import AutoModelForCausalLM

    path = directory / "model.safetensors"
    weights = load_file(path)
    torch.manual_seed(0)
    weights["lm_head.weight"] = torch.randn(97, 64) * 0.2
    save_file(weights, path, metadata={"format": "pt"})
    reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.inference_mode():
        expected = reference(torch.tensor([IDS])).logits[0]
    plain = logits(load(directory, "cpu").decoder, IDS)
    assert (plain - expected).abs().max() <= 1e-4
    fused = logits(load_fused(directory, "q8_0"), IDS)
    assert (fused - expected).abs().max() <= 6e-2 * expected.abs().max()


@pytest.mark.usefixtures("own_cache")
def test_only_what_the_index_names_is_read(directory: Path) -> None:
    whole = load_file(directory / "model.safetensors")
    expected = logits(load(directory, "cpu").decoder, IDS)
    (directory / "model.safetensors").unlink()
    names = sorted(whole)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, some in parts.items():
        held = {name: whole[name].clone() for name in some}
        save_file(held, directory / file, metadata={"format": "pt"})
    stale = {name: torch.zeros_like(tensor) for name, tensor in whole.items()}
    save_file(stale, directory / "old.safetensors", metadata={"format": "pt"})
    save_file({"tok_embeddings.weight": torch.ones(2)}, directory / "consolidated.safetensors")
    named = {name: file for file, some in parts.items() for name in some}
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": named}))
    assert torch.equal(logits(load(directory, "cpu").decoder, IDS), expected)
    found = logits(load_fused(directory, "q8_0"), IDS)
    assert (found - expected).abs().max() <= 6e-2 * expected.abs().max()
    index.write_text(json.dumps({"weight_map": named | {names[0]: "gone.safetensors"}}))
    refused_by_both(directory, "names 'gone.safetensors', which")
    index.write_text(json.dumps({"weight_map": named | {"model.more": "a.safetensors"}}))
    refused_by_both(directory, "lacks 'model.more', which the index names")


@pytest.mark.usefixtures("own_cache")
def test_stop_tokens_of_the_generation_config_count(directory: Path) -> None:
    path = directory / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [11, 12]}))
    assert {11, 12} <= set(load(directory, "cpu").config.eos_ids)
    path.write_text(json.dumps({"eos_token_id": "end"}))
    refused_by_both(directory, "eos_token_id must be a token's number")


@pytest.mark.usefixtures("own_cache")
def test_a_kept_conversion_that_was_edited_is_made_again(tmp_path: Path) -> None:
    reference = make_reference("llama", **SIZES)
    file = write_gguf(tmp_path / "tiny.gguf", reference, gguf_weights(reference))
    model = load(file, "cpu")
    path = model.directory / "config.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps(raw | {"rms_norm_eps": 0.5}))
    assert load(file, "cpu").config == model.config
    (model.directory / "model.safetensors").write_bytes(b"")
    assert torch.equal(logits(load(file, "cpu").decoder, IDS), logits(model.decoder, IDS))
