"""Keys of a config.json: read as transformers reads them, or refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from labkit.errors import ModelError
from labkit.model.config import ModelConfig, config_from_dict, read_config
from labkit.model.families import FAMILIES
from labkit.model.load import load
from labkit.model.rope import attention_factor, frequencies
from labkit.model.weight_files import read_shapes
from tests.conftest import make_reference

# What no family has a default for here, though transformers has one: a model without it is refused.
SIZES = {
    "vocab_size": 97, "hidden_size": 4096, "intermediate_size": 128, "num_hidden_layers": 30,
    "num_attention_heads": 32,
}  # fmt: skip
MIXTURE = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def bare(kind: str, **more: Any) -> dict[str, Any]:
    """A config.json that says as little as is read."""
    own = {key: size for key, size in SIZES.items() if key not in FAMILIES[kind].defaults}
    return {"model_type": kind} | own | (MIXTURE if kind == "qwen3_moe" else {}) | more


def theirs(raw: dict[str, Any]) -> Any:
    """transformers' config of a config.json."""
    given = json.loads(json.dumps(raw))
    return CONFIG_MAPPING[given.pop("model_type")].from_dict(given)


@pytest.mark.parametrize("kind", FAMILIES)
def test_what_a_config_leaves_out_is_what_transformers_has(kind: str) -> None:
    """transformers writes out every field of its configuration class."""
    whole = theirs(bare(kind)).to_dict()
    assert config_from_dict(bare(kind)) == config_from_dict(whole)


YARN = {"rope_type": "yarn", "factor": 4.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.5] * 64, "long_factor": [3.0] * 64}
ORIGINAL = "original_max_position_embeddings"


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral", "phi3"])
@pytest.mark.parametrize(
    "more",
    [
        {"rope_scaling": {"rope_type": "default", "rope_theta": 5e5}},
        {"rope_scaling": LONGROPE, "rope_theta": 3e4},
        {"rope_scaling": LONGROPE, "rope_parameters": {"rope_theta": 5e5}},
        {"rope_scaling": LONGROPE, ORIGINAL: 512},
        {"rope_scaling": LONGROPE | {ORIGINAL: 1024, "rope_theta": 2e4}, ORIGINAL: 512},
        {"rope_scaling": YARN},
        {"rope_scaling": YARN, ORIGINAL: 512, "rope_theta": 5e5},
        {"rope_scaling": YARN | {ORIGINAL: 1024}, ORIGINAL: 512},
        {"rope_scaling": YARN | {"truncate": None, ORIGINAL: 1024}},
        {"rope_scaling": YARN | {"truncate": False, "factor": 0.5, ORIGINAL: 1024}},
        {"rope_parameters": YARN | {"rope_theta": 2e4}, "rope_scaling": LLAMA3},
        {"rope_parameters": LLAMA3 | {ORIGINAL: 256}, ORIGINAL: 512, "rope_theta": 2e4},
        {"rope_parameters": {"type": "linear", "factor": 0.5}},
    ],
)
def test_rope_is_read_as_transformers_reads_it(kind: str, more: dict[str, Any]) -> None:
    raw = bare(kind, head_dim=128, **more)
    scaled = raw.get("rope_scaling", raw.get("rope_parameters", {})).get("rope_type")
    if kind == "phi3" and scaled not in ("default", "longrope"):
        with pytest.raises(ModelError, match="not supported; allowed|short_factor must be"):
            config_from_dict(raw)
        return
    rotary = {"phi3": Phi3RotaryEmbedding}.get(kind, LlamaRotaryEmbedding)(theirs(raw))
    config = config_from_dict(raw)
    found = frequencies(config.turned, config.rope_theta, config.rope_scaling)
    torch.testing.assert_close(found, rotary.inv_freq, rtol=1e-5, atol=0)
    assert attention_factor(config.rope_scaling) == pytest.approx(rotary.attention_scaling)


@pytest.mark.parametrize(
    "more",
    [
        {"rope_theta": 5e5, "rope_local_base_freq": 2e4},
        {"rope_scaling": {"rope_type": "linear", "factor": 8.0, "rope_theta": 3e4}},
        {"rope_parameters": {"full_attention": {"type": "linear", "factor": 8.0}}},
        {"rope_scaling": YARN, ORIGINAL: 512},
    ],
)
def test_both_ropes_of_gemma(more: dict[str, Any]) -> None:
    rotary = Gemma3RotaryEmbedding(theirs(bare("gemma3_text", **more)))
    config = config_from_dict(bare("gemma3_text", **more))
    found = frequencies(256, config.rope_theta, config.rope_scaling)
    torch.testing.assert_close(found, rotary.full_attention_inv_freq, rtol=1e-5, atol=0)
    assert config.local_rope_theta is not None
    local = frequencies(256, config.local_rope_theta, None)
    torch.testing.assert_close(local, rotary.sliding_attention_inv_freq, rtol=1e-5, atol=0)


FULL, SLIDING = ["full_attention"] * 30, ["sliding_attention"] * 30


def scaled(kind: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"rope_scaling": kind | {ORIGINAL: 1024} | more}


@pytest.mark.parametrize(
    ("kind", "more", "words"),
    [
        ("llama", scaled(YARN, beta_fast=0), "beta_fast must lie between"),
        ("llama", scaled(YARN, beta_slow=-1.0), "beta_slow must lie between"),
        ("llama", scaled(YARN, beta_fast=1.0, beta_slow=1.0), "beta_slow must be less than beta_f"),
        ("llama", scaled(YARN, **{ORIGINAL: 0}), f"{ORIGINAL} must lie between"),
        ("llama", scaled(YARN, **{ORIGINAL: -5}), f"{ORIGINAL} must lie between"),
        ("llama", scaled(YARN, **{ORIGINAL: 2}), "leave no ramp"),
        ("llama", scaled(YARN, truncate=1), "truncate must be true or false; it is 1"),
        ("llama", scaled(YARN, attention_factor=0.0), "attention_factor must lie between"),
        ("llama", scaled(YARN, factor=0.0), "factor must lie between"),
        ("llama", scaled(YARN, **{"a\nb": 1}), r"'a\\nb' is not supported; allowed: factor"),
        ("llama", scaled(LLAMA3, low_freq_factor=4.0), "low_freq_factor must be less than high_fr"),
        ("llama", scaled(LLAMA3, low_freq_factor=0), "low_freq_factor must lie between"),
        ("phi3", {"rope_scaling": LONGROPE | {"odd": 1}}, "'odd' is not supported; allowed: short"),
        ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type 'linear' is not"),
        ("llama", {"rope_parameters": {"full_attention": {}}}, "'full_attention' is not supported"),
        ("qwen3", {"rope_parameters": {"sliding_attention": {}}}, "'sliding_attention' is not sup"),
        ("llama", {"rope_scaling": []}, r"rope_scaling must be an object; it is \[\]"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config .* is not supported"),
        ("llama", {"layer_types": SLIDING}, "'sliding_attention' is not supported where all"),
        ("mistral", {"layer_types": FULL}, "'full_attention' is not supported where all"),
        ("mistral", {"layer_types": SLIDING[:9] + FULL[9:]}, "'full_attention' is not supported"),
        ("mistral", {"sliding_window": None, "layer_types": SLIDING}, "sliding_window None"),
        ("mistral", {"attention_bias": True}, "attention_bias True is not supported"),
        ("qwen2", {"layer_types": SLIDING}, "there is no sliding window in use"),
        ("qwen2", {"layer_types": []}, "layer_types must be a list of 30 names"),
        ("qwen2", {"mlp_bias": True}, "mlp_bias True is not supported"),
        ("qwen2", {"max_position_embeddings": None}, "max_position_embeddings is missing"),
        ("gemma3_text", {"sliding_window": None}, "sliding_window is None"),
        ("gemma3_text", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "Name it rope_type"),
        ("gemma3_text", scaled(YARN, truncate=False), "'truncate' is not supported; leave it out"),
        ("smollm3", {"no_rope_layers": []}, "no_rope_layers must be 30 numbers"),
        ("smollm3", {"no_rope_layers": [True] * 30}, "no_rope_layers must be 30 numbers"),
        ("llama", {"model_type": "a\nb"}, r"model_type 'a\\nb' is not supported; supported"),
        ("llama", {"hidden_act": "a\nb"}, r"'a\\nb' is not supported; supported: silu"),
        ("llama", {"num_key_value_heads": 5}, "num_key_value_heads 5 do not divide"),
        ("llama", {"rms_norm_eps": -1e-6}, "rms_norm_eps must be at least 0"),
    ],
)  # fmt: skip
def test_what_is_not_computed_is_refused(kind: str, more: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        config_from_dict(bare(kind, **more))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("kind", "more", "changes"),
    [
        ("llama", {"hidden_act": "swish"}, {}),
        ("llama", {"layer_types": FULL}, {}),
        ("llama", {"rms_norm_eps": 0.0}, {"rms_norm_eps": 0.0}),
        ("mistral", {"layer_types": SLIDING}, {}),
        ("mistral", {"layer_types": FULL, "sliding_window": None}, {"sliding_window": None}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": None}, {}),
        ("smollm3", {"use_sliding_window": True, "sliding_window": None}, {}),
    ],
)
def test_what_is_no_fault_is_read(kind: str, more: dict[str, Any], changes: dict[str, Any]) -> None:
    found = config_from_dict(bare(kind, **more))
    assert found == replace(config_from_dict(bare(kind)), **changes)
    assert found == config_from_dict(theirs(bare(kind, **more)).to_dict() | more)


def written(folder: Path, raw: dict[str, Any], generation: str | None = None) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(raw))
    if generation is not None:
        (folder / "generation_config.json").write_text(generation)
    return read_config(folder)


def test_a_stop_token_that_is_named_stands_before_the_familys_own(tmp_path: Path) -> None:
    assert written(tmp_path, bare("llama")).eos_ids == (2,)
    assert written(tmp_path, bare("llama", eos_token_id=None)).eos_ids == ()
    assert written(tmp_path, bare("llama"), '{"eos_token_id": 7}').eos_ids == (7,)
    assert written(tmp_path, bare("llama", eos_token_id=5)).eos_ids == (5, 7)


@pytest.mark.parametrize("text", ["{", "[]", '{"eos_token_id": "a\\nb"}'])
def test_a_broken_generation_config_is_named(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "two\nlines"
    folder.mkdir()
    with pytest.raises(ModelError, match=r"two\\nlines/generation_config.json") as caught:
        written(folder, bare("llama"), text)
    assert "/config.json" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("indexed", [False, True])
def test_a_weight_under_two_names_is_refused(tmp_path: Path, indexed: bool) -> None:
    make_reference("llama").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    twice = {"norm.weight": torch.zeros_like(weights["model.norm.weight"])}
    if indexed:
        save_file(twice, tmp_path / "other.safetensors", metadata={"format": "pt"})
        names = dict.fromkeys(weights, "first.safetensors") | {"norm.weight": "other.safetensors"}
        path.rename(tmp_path / "first.safetensors")
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": names}))
    else:
        save_file(weights | twice, path, metadata={"format": "pt"})
    for read in (read_shapes, lambda folder: load(folder, "cpu")):
        with pytest.raises(ModelError, match="are one weight"):
            read(tmp_path)
