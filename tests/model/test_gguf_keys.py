"""Keys that change the arithmetic: honoured as others honour them, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter

from labkit.errors import ModelError
from labkit.model.gguf_families import FREQUENCIES, LONG, SHORT
from labkit.model.gguf_file import hf_config, weights_of
from labkit.model.gguf_header import GgufFile
from labkit.model.load import load
from labkit.model.rope import attention_factor, frequencies, read_rope
from labkit.model.shapes import check_weights
from labkit.optimize.fused import load_fused
from tests.conftest import make_reference
from tests.fused_helpers import SIZES, logits
from tests.model.test_gguf_file import gguf_weights, write_gguf

DIM = SIZES["head_dim"]
LONGROPE = (LONG, SHORT)


def made(path: Path, more: Callable[[GGUFWriter], object], **changes: Any) -> Path:
    """A tiny model's file with these keys as well."""
    reference = make_reference("llama-tied", **SIZES | changes)
    weights = gguf_weights(reference)
    return write_gguf(path, reference, weights, more=more)


def with_keys(**keys: Any) -> Callable[[GGUFWriter], None]:
    def add(writer: GGUFWriter) -> None:
        for name, value in keys.items():
            key = "llama." + name.replace("__", ".")
            kinds = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}
            kinds.get(type(value), writer.add_float32)(key, value)

    return add


YARN_KEYS = {"rope__scaling__type": "yarn", "rope__scaling__factor": 2.0}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"attention__scale": 0.5}, "llama.attention.scale, 0.5, is not supported"),
        ({"logit_scale": 2.0}, "llama.logit_scale, 2.0, is not computed here"),
        ({"embedding_scale": 12.0}, "llama.embedding_scale"),
        ({"rope__dimension_count": DIM // 2}, "llama.rope.dimension_count"),
        ({"attention__value_length": DIM * 2}, "llama.attention.value_length"),
        ({"vocab_size": 96}, "llama.vocab_size, 96, is not supported: the embedding has 97 rows"),
        ({"expert_count": 8}, "llama.expert_count, 8, is not computed here"),
        ({"rope__scaling__type": "longrope"}, "llama.rope.scaling.type, 'longrope'"),
        ({"a_new_key": 3}, "llama.a_new_key, 3, is not known here"),
        ({"rope__scaling__factor": 2.0, "rope__scale_linear": 4.0}, "contradicts"),
        (YARN_KEYS | {"rope__scaling__yarn_ext_factor": 0.5}, "yarn_ext_factor"),
    ],
)
@pytest.mark.usefixtures("own_cache")
def test_what_is_not_computed_is_refused_by_both(
    tmp_path: Path, keys: dict[str, Any], words: str
) -> None:
    file = made(tmp_path / "tiny.gguf", with_keys(**keys))
    for loader in (load, load_fused):
        with pytest.raises(ModelError, match=words) as caught:
            loader(file)
        assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"rope__scaling__attn_factor": 1.5}, "attn_factor, 1.5, is not supported: only with YaRN"),
        (
            {"rope__scaling__factor": 2.0, "rope__scaling__attn_factor": 0.5},
            "attn_factor, 0.5, is not supported: only with YaRN",
        ),
        ({"rope__scaling__yarn_ext_factor": 1.0}, "yarn_ext_factor, 1.0, is not supported"),
        (YARN_KEYS | {"rope__scaling__yarn_attn_factor": 1.5}, "yarn_attn_factor, 1.5, is not"),
        (YARN_KEYS | {"rope__scaling__factor": 0.5}, "factor, 0.5, must be at least 1 for YaRN"),
        (YARN_KEYS | {"rope__scaling__yarn_beta_fast": 0.5}, "beta_slow must be less than beta_f"),
        (YARN_KEYS | {"rope__scaling__original_context_length": 1}, "leave no ramp"),
        ({"rope__scaling__factor": -2.0}, "factor, -2, must be above 0"),
        ({"rope__scaling__factor": 2}, "factor, 2, is no floating-point number"),
        ({"rope__scaling__finetuned": 0}, "finetuned, 0, is not true or false"),
        ({"logit_scale": 1}, "logit_scale, 1, is not computed here; allowed: 1.0"),
        ({"attention__causal": 1}, "attention.causal, 1, is not computed here; allowed: True"),
        ({"vocab_size": 97.0}, "vocab_size, 97.0, is not supported"),
        ({"attention__head_count_kv": [2, 2]}, r"head_count_kv, \[2, 2\], is no size that all"),
        ({"attention__head_count_kv": []}, r"head_count_kv, \[\], is no size that all layers"),
        ({"context_length": [512] * 3}, r"context_length, \[512, 512, 512\], is no size"),
        ({"a_new_key": "two\nlines"}, r"'two\\nlines', is not known here"),
    ],
)
def test_what_llama_cpp_reads_in_another_way_is_refused(
    tmp_path: Path, keys: dict[str, Any], words: str
) -> None:
    """By the check that both loaders make; one line that names the file."""
    path = made(tmp_path / "tiny.gguf", lambda writer: None)
    file = GgufFile(path)
    file.fields |= {"llama." + name.replace("__", "."): value for name, value in keys.items()}
    with pytest.raises(ModelError, match=words) as caught:
        check_weights(hf_config(file), {}, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "tensors", "words"),
    [
        ("llama", LONGROPE, "rope_factors_long.weight is not read in llama files"),
        ("qwen2", LONGROPE, "rope_factors_long.weight is not read in qwen2 files"),
        ("granite", LONGROPE, "rope_factors_long.weight is not read in granite files"),
        *(
            (name, (FREQUENCIES,), f"rope_freqs.weight is not read in {name} files")
            for name in ("qwen2", "qwen3", "gemma3", "phi3", "smollm3", "olmo2")
        ),
        ("phi3", LONGROPE[:1], "rope_factors_short.weight is missing"),
    ],
)
def test_factors_that_llama_cpp_does_not_read_are_refused(
    tmp_path: Path, name: str, tensors: tuple[str, ...], words: str
) -> None:
    reference = make_reference(name, **SIZES)
    more = dict.fromkeys(tensors, np.full(DIM // 2, 2, dtype=np.float32))
    file = write_gguf(tmp_path / "tiny.gguf", reference, gguf_weights(reference) | more)
    with pytest.raises(ModelError, match=words):
        hf_config(GgufFile(file))


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        *(
            ("granite", {key: None}, f"granite.{key} is missing")
            for key in ("attention.scale", "logit_scale", "embedding_scale", "residual_scale")
        ),
        ("granite", {"rope.scaling.finetuned": 0}, "finetuned, 0, is not true or false"),
        (
            "gemma3",
            {f"rope.scaling.{key}": value
             for key, value in (("type", "yarn"), ("factor", 2.0), ("attn_factor", 1.5))},
            "layers with a window would have it too",
        ),
        ("phi3", {"rope.scaling.factor": 2.0}, "phi3.rope.scaling.type, linear, is not computed"),
        ("gemma3", {"attention.sliding_window_pattern": [1.0] * 3}, "is no mark for each of 3"),
    ],
)  # fmt: skip
def test_keys_of_one_architecture(
    tmp_path: Path, name: str, changes: dict[str, Any], words: str
) -> None:
    """A value of None takes the key away."""
    reference = make_reference(name, **SIZES)
    file = GgufFile(write_gguf(tmp_path / "tiny.gguf", reference, gguf_weights(reference)))
    file.fields |= {f"{name}.{key}": value for key, value in changes.items()}
    file.fields = {key: value for key, value in file.fields.items() if value is not None}
    with pytest.raises(ModelError, match=words):
        hf_config(file)


def test_a_norm_under_another_architectures_name_is_refused(tmp_path: Path) -> None:
    """In olmo2 files ffn_norm would be the norm that post_attention_norm is."""
    reference = make_reference("olmo2", **SIZES)
    weights = gguf_weights(reference)
    weights["blk.0.ffn_norm.weight"] = weights.pop("blk.0.post_attention_norm.weight")
    file = GgufFile(write_gguf(tmp_path / "tiny.gguf", reference, weights))
    with pytest.raises(ModelError, match=r"tensor blk.0.ffn_norm.weight is unknown"):
        weights_of(file)


@pytest.mark.parametrize("count", ["3\n4", 2.0, True, 3])
def test_the_parts_of_a_split_file_are_told_in_one_line(tmp_path: Path, count: Any) -> None:
    kinds = {str: GGUFWriter.add_string, float: GGUFWriter.add_float32, bool: GGUFWriter.add_bool}
    add = kinds.get(type(count), GGUFWriter.add_uint16)
    path = made(tmp_path / "tiny.gguf", lambda writer: add(writer, "split.count", count))
    with pytest.raises(ModelError, match="is one part of") as caught:
        GgufFile(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "keys",
    [
        {"attention__scale": DIM**-0.5, "logit_scale": 1.0, "rope__dimension_count": DIM},
        {"rope__scaling__type": "none", "rope__scaling__factor": 8.0, "vocab_size": 97},
        {"expert_count": 0, "attention__causal": True, "attention__value_length": DIM},
    ],
)
def test_keys_that_say_what_is_done_anyway_change_nothing(
    tmp_path: Path, keys: dict[str, Any]
) -> None:
    plain = made(tmp_path / "plain.gguf", lambda writer: None)
    file = made(tmp_path / "tiny.gguf", with_keys(**keys))
    assert hf_config(GgufFile(file)) == hf_config(GgufFile(plain))


YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128,
    "rope_theta": 10000.0,
}  # fmt: skip


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(
    ("keys", "parameters"),
    [
        ({"rope__scale_linear": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"rope__scaling__factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({"rope__scaling__factor": 0.5}, {"rope_type": "linear", "factor": 0.5}),
        (
            {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0,
             "rope__scaling__original_context_length": 128},
            YARN,
        ),
        (
            {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0,
             "rope__scaling__original_context_length": 128, "rope__scaling__attn_factor": 0.8},
            YARN | {"attention_factor": 0.8 * (0.1 * np.log(4) + 1)},
        ),
    ],
)  # fmt: skip
def test_scaling_is_what_transformers_computes(
    tmp_path: Path, keys: dict[str, Any], parameters: dict[str, Any]
) -> None:
    reference = make_reference(
        "llama-tied", **SIZES, rope_parameters={"rope_theta": 10000.0} | parameters
    )
    file = write_gguf(
        tmp_path / "tiny.gguf", reference, gguf_weights(reference), more=with_keys(**keys)
    )
    ids = list(range(3, 90))
    with torch.inference_mode():
        expected = reference(torch.tensor([ids])).logits[0]
    assert (logits(load(file, "cpu").decoder, ids) - expected).abs().max() <= 1e-4
    found = logits(load_fused(file), ids)
    assert (found - expected).abs().max() <= 6e-2 * expected.abs().max()


LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
}  # fmt: skip


def factors(parameters: dict[str, Any]) -> np.ndarray:
    """As llama.cpp's converter writes them into rope_freqs.weight."""
    theta, scaling = read_rope({"rope_parameters": parameters}, DIM, 512)
    return (frequencies(DIM, theta, None) / frequencies(DIM, theta, scaling)).numpy()


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("own", [True, False])
def test_rope_freqs_of_a_file_are_used(tmp_path: Path, own: bool) -> None:
    """Llama 3's factors become its scaling; any others are kept as they are."""
    given = factors(LLAMA3) if own else np.linspace(1, 3, DIM // 2, dtype=np.float32)
    parameters = LLAMA3 if own else {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": given.tolist(),
        "long_factor": given.tolist(), "attention_factor": 1.0,
        "original_max_position_embeddings": 512,
    }  # fmt: skip
    reference = make_reference("llama-tied", **SIZES, rope_parameters=parameters)
    weights = gguf_weights(reference) | {"rope_freqs.weight": given}
    file = write_gguf(tmp_path / "tiny.gguf", reference, weights)
    raw = hf_config(GgufFile(file))
    assert raw["rope_parameters"]["rope_type"] == ("llama3" if own else "longrope")
    ids = list(range(3, 90))
    with torch.inference_mode():
        expected = reference(torch.tensor([ids])).logits[0]
    assert (logits(load(file, "cpu").decoder, ids) - expected).abs().max() <= 1e-4
    assert (logits(load_fused(file), ids) - expected).abs().max() <= 6e-2 * expected.abs().max()


def test_yarn_raises_the_scores() -> None:
    _, scaling = read_rope({"rope_parameters": YARN}, DIM, 512)
    assert attention_factor(scaling) == pytest.approx(0.1 * np.log(4) + 1)
    assert attention_factor(None) == 1.0
