"""What only some families do: read from their configs as they stand on the hub, or refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGMLQuantizationType

from labkit.errors import ModelError
from labkit.model.config import ModelConfig, config_from_dict
from labkit.model.families import FAMILIES
from labkit.model.gguf_file import hf_config
from labkit.model.gguf_header import GgufFile
from labkit.model.load import load
from labkit.model.rope import check_context
from labkit.model.rows import Rows
from labkit.optimize.fused import load_fused
from labkit.optimize.fused.cache import FusedCache
from tests.conftest import Tiny, make_reference
from tests.fused_helpers import SIZES, logits
from tests.model.test_gguf_file import gguf_weights, write_gguf

IDS = list(range(3, 40))
GEMMA = {  # of google/gemma-3-1b-it, which does not say that its head is tied
    "model_type": "gemma3_text", "hidden_size": 1152, "intermediate_size": 6912,
    "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 32768,
    "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "rope_local_base_freq": 10000,
    "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512,
    "sliding_window_pattern": 6, "vocab_size": 262144, "attn_logit_softcapping": None,
    "final_logit_softcapping": None, "attention_bias": False, "eos_token_id": [1, 106],
}  # fmt: skip
PHI4_MINI = {
    "model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192,
    "num_hidden_layers": 32, "num_attention_heads": 24, "num_key_value_heads": 8,
    "hidden_act": "silu", "max_position_embeddings": 131072, "partial_rotary_factor": 0.75,
    "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48},
    "sliding_window": 262144, "tie_word_embeddings": True, "vocab_size": 200064,
}  # fmt: skip


def test_gemma_as_it_stands_on_the_hub() -> None:
    config = config_from_dict(GEMMA)
    assert [n for n in range(26) if config.window_of(n) is None] == [5, 11, 17, 23]
    assert config.window_of(0) == 512
    assert (config.rope_of(0), config.rope_of(5), config.ropes) == (1, 0, 2)
    assert (config.rope_theta, config.local_rope_theta) == (1e6, 1e4)
    assert config.tied_head
    assert config.embedding_multiplier == math.sqrt(1152)
    assert config.attention_multiplier == 1 / 16
    last = config.with_layers([24, 23])
    assert [last.window_of(n) for n in (0, 1)] == [512, None]


def test_phi_4_mini_has_its_original_context() -> None:
    config = config_from_dict(PHI4_MINI)
    assert (config.head_dim, config.turned, config.max_positions) == (128, 96, 4096)
    assert config.rope_scaling is not None
    stretch = math.sqrt(1 + math.log(32) / math.log(4096))
    assert config.rope_scaling["attention_factor"] == pytest.approx(stretch)
    assert config.joined_projections
    check_context(config.rope_scaling, 4096)
    with pytest.raises(ModelError, match="4,097 positions are more than the 4,096"):
        check_context(config.rope_scaling, 4097)
    short = PHI4_MINI["rope_scaling"] | {"long_factor": [1.0] * 48}
    assert config_from_dict(PHI4_MINI | {"rope_scaling": short}).max_positions == 131072


@pytest.mark.parametrize(
    ("raw", "changes", "words"),
    [
        (GEMMA, {"model_type": "gemma3"}, "'gemma3' is not supported; supported: gemma3_text, gra"),
        (GEMMA, {"final_logit_softcapping": 30.0}, "final_logit_softcapping 30.0 is not supported"),
        (GEMMA, {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping 50.0"),
        (GEMMA, {"use_bidirectional_attention": True}, "use_bidirectional_attention True"),
        (GEMMA, {"hidden_activation": "silu"}, "'silu' is not supported; supported: gelu_py"),
        (GEMMA, {"layer_types": ["chunked_attention"] * 26}, "'chunked_attention' is not suppor"),
        (GEMMA, {"layer_types": ["full_attention"]}, "must be a list of 26 names"),
        (GEMMA, {"rope_parameters": {"rope_type": "default"}}, "rope_parameters: .rope_type. is"),
        (
            GEMMA,
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
            "rope_type 'linear' is not supported; allowed: 'default'",
        ),
        (PHI4_MINI, {"partial_rotary_factor": 0.7}, "turns 89 of a head's 128 numbers"),
        (PHI4_MINI, {"partial_rotary_factor": 1.0}, "short_factor must be a list of 64 numbers"),
        (PHI4_MINI, {"rope_scaling": {"type": ["longrope"]}}, r"\['longrope'\] is not supported"),
        (
            PHI4_MINI | {"model_type": "llama", "rope_scaling": None},
            {},
            "partial_rotary_factor 0.75 is not supported; allowed: 1.0",
        ),
        (
            PHI4_MINI | {"model_type": "granite", "rope_scaling": None},
            {"partial_rotary_factor": 1.0, "logits_scaling": 0},
            "logits_scaling must lie above 0",
        ),
        (
            PHI4_MINI | {"model_type": "smollm3", "rope_scaling": None},
            {"partial_rotary_factor": 1.0, "no_rope_layers": [1, 0]},
            "no_rope_layers must be 32 numbers",
        ),
        (
            PHI4_MINI | {"model_type": "smollm3", "rope_scaling": None},
            {"partial_rotary_factor": 1.0, "layer_types": ["sliding_attention"] * 32},
            "there is no sliding window in use",
        ),
    ],
)  # fmt: skip
def test_what_is_not_computed_is_refused(
    raw: dict[str, Any], changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        config_from_dict(raw | changes)
    assert "\n" not in str(caught.value)


def test_the_families_that_are_told_are_those_that_are_read() -> None:
    with pytest.raises(ModelError) as caught:
        config_from_dict({"model_type": "gpt2"})
    assert str(caught.value).endswith(f"supported: {', '.join(sorted(FAMILIES))}.")


def test_longrope_ends_where_its_other_factors_begin(tmp_path: Path) -> None:
    """transformers computes the same up to there, with the attention factor of its own."""
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
        "short_factor": [1.0, 1.2, 1.5, 2.0, 2.5, 3.0], "long_factor": [2.0] * 6,
    }  # fmt: skip
    reference = make_reference(
        "phi4-mini", original_max_position_embeddings=len(IDS), rope_parameters=rope
    )
    reference.save_pretrained(tmp_path)
    tiny = Tiny(reference, load(tmp_path, "cpu"))
    config, decoder = tiny.model.config, tiny.model.decoder
    assert config.max_positions == len(IDS)
    assert (logits(decoder, IDS) - tiny.logits(IDS)).abs().max() <= 1e-4
    cache = decoder.new_cache(1, 64)
    with pytest.raises(ModelError, match="38 positions are more than the 37"):
        decoder(Rows.prefill([*IDS, 1]), cache)
    assert cache.length(0) == 0
    with pytest.raises(ModelError, match="64 positions are more than the 37"):
        FusedCache(config, 1, 64)


@pytest.mark.parametrize("name", ["qkv_proj", "gate_up_proj"])
def test_joined_matrices_of_other_shapes_are_refused(tmp_path: Path, name: str) -> None:
    from safetensors.torch import load_file, save_file

    make_reference("phi3", **SIZES).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    full = next(key for key in weights if name in key)
    weights[full] = weights[full][:-16].clone()
    save_file(weights, path, metadata={"format": "pt"})
    for loader in (lambda: load(tmp_path, "cpu"), lambda: load_fused(tmp_path, "q8_0")):
        with pytest.raises(ModelError, match=rf"{name}.weight has shape .*, the config says"):
            loader()


# From a directory: what no GGUF file says, and norms that are stored less 1.
DIRECTORIES = ["gemma3-stretched", "smollm3-window", "olmo2-biases-tied", "granite-biases-tied"]


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("name", [*DIRECTORIES, "gemma3", "phi4-mini", "qwen3-window-above"])
def test_a_directory_in_the_fused_decoder(tmp_path: Path, name: str) -> None:
    reference = make_reference(name, **SIZES)
    reference.save_pretrained(tmp_path)
    fused = load_fused(tmp_path, "q8_0", threads=2)
    with torch.inference_mode():
        expected = reference(torch.tensor([IDS])).logits[0]
    found = logits(fused, IDS)
    assert (found - expected).abs().max() <= 6e-2 * expected.abs().max()
    assert torch.equal(found, logits(fused, IDS, 1))


@pytest.mark.parametrize(
    ("name", "key", "value", "words"),
    [
        ("gemma3", "final_logit_softcapping", 30.0, "gemma3.final_logit_softcapping, 30.0"),
        ("gemma3", "attention.scale", 0.3, "gemma3.attention.scale"),
        ("gemma3", "rope.dimension_count", 8, "gemma3.rope.dimension_count"),
        ("olmo2", "attention.sliding_window", 8, "olmo2.attention.sliding_window, 8"),
        ("smollm3", "logit_scale", 2.0, "smollm3.logit_scale, 2.0, is not computed here"),
        ("granite", "rope.scaling.finetuned", False, "nothing would turn"),
        ("phi3", "rope.scaling.type", "longrope", "phi3.rope.scaling.type, 'longrope'"),
    ],
)
def test_keys_of_files_that_are_not_computed(
    tmp_path: Path, name: str, key: str, value: Any, words: str
) -> None:
    reference = make_reference(name, **SIZES)

    def add(writer: Any) -> None:
        kinds = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}
        kinds.get(type(value), writer.add_float32)(f"{name}.{key}", value)

    file = write_gguf(tmp_path / "tiny.gguf", reference, gguf_weights(reference), more=add)
    with pytest.raises(ModelError, match=words):
        hf_config(GgufFile(file))


def same_but_for(one: ModelConfig, other: ModelConfig) -> None:
    """Configs that describe one model; a GGUF file knows nothing of these."""
    unknown = {"eos_ids": (), "bos_id": None}
    assert replace(one, **unknown) == replace(other, **unknown)


@pytest.mark.parametrize(
    "name", ["gemma3", "phi3", "phi3-window", "phi4-mini", "smollm3", "olmo2", "granite"]
)
def test_a_file_says_what_the_directory_says(
    tmp_path: Path, name: str, make_tiny: Callable[[str], Tiny]
) -> None:
    reference = make_reference(name, **SIZES)
    reference.save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    file = write_gguf(
        tmp_path / "tiny.gguf", reference, gguf_weights(reference), GGMLQuantizationType.Q8_0
    )
    found = config_from_dict(hf_config(GgufFile(file)))
    expected = config_from_dict(raw)
    if name in ("smollm3", "granite", "phi4-mini"):  # float32 in the file
        assert found.rope_theta == pytest.approx(expected.rope_theta)
    approximate = {
        "rms_norm_eps": expected.rms_norm_eps,
        "attention_multiplier": expected.attention_multiplier,
        "residual_multiplier": expected.residual_multiplier,
        "rope_scaling": expected.rope_scaling,
    }
    same_but_for(replace(found, **approximate), expected)
    assert found.residual_multiplier == pytest.approx(expected.residual_multiplier)
