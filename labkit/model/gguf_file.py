"""GGUF files: read, checked, and converted once to a Hugging Face directory.

Conversion makes a directory with config.json, model.safetensors and the tokenizer's files. Both
this package and transformers read it, so that they compute with the same numbers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from labkit.errors import ModelError
from labkit.model.experts import expert_name
from labkit.model.gguf_families import ARCHITECTURES, Architecture
from labkit.model.gguf_header import GgufFile, GgufTensor
from labkit.model.gguf_keys import NO_WEIGHTS, Keys, token_id
from labkit.model.gguf_tokenizer import check_tokenizer, save_tokenizer
from labkit.model.safetensors_file import save_one_by_one
from labkit.model.shapes import check_weights

_PAIRED = {one.kind for one in ARCHITECTURES.values() if one.paired}
_TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def hf_config(file: GgufFile) -> dict[str, Any]:
    """The config.json that describes a file; ModelError for an unsupported family or key."""
    keys, path = Keys(file), file.path
    own = ARCHITECTURES[keys.arch]
    check_tokenizer(file)
    names = file.tensors
    if "token_embd.weight" not in names:
        raise ModelError(f"{path} has no tensor token_embd.weight.")
    vocabulary = names["token_embd.weight"].shape[0]
    heads, hidden = keys.size("attention.head_count"), keys.size("embedding_length")
    head_dim = keys.size("attention.key_length", max(1, hidden // heads))
    keys.must_be("attention.value_length", head_dim, f"keys have {head_dim} numbers a head")
    if not own.partial_rotary:
        keys.must_be("rope.dimension_count", head_dim, f"all {head_dim} numbers of a head turn")
    if "attention.scale" not in own.keys:
        keys.must_be("attention.scale", head_dim**-0.5, "scores are scaled by 1 / sqrt(head size)")
    keys.must_be("vocab_size", vocabulary, f"the embedding has {vocabulary} rows")
    context = keys.size("context_length")
    turned = keys.size("rope.dimension_count", head_dim)
    config = {
        "architectures": [own.model],
        "model_type": own.kind,
        "hidden_act": "silu",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": keys.size(
            "feed_forward_length", keys.given("expert_feed_forward_length")
        ),
        "num_hidden_layers": keys.size("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.size("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "rope_parameters": keys.rope(turned, context),
        "max_position_embeddings": context,
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": False,
        "bos_token_id": token_id(file.fields, "bos_token_id", path),
        "eos_token_id": _ends(file),
        "torch_dtype": "float32",
    }
    return config | own.read(keys, config)


def _ends(file: GgufFile) -> int | list[int] | None:
    """The tokens that end an answer: of the text, and of a turn or a message where there are such,
    as llama.cpp stops at them."""
    names = ("eos_token_id", "eot_token_id", "eom_token_id")
    found = [token_id(file.fields, name, file.path) for name in names]
    ids = list(dict.fromkeys(one for one in found if one is not None))
    return ids[0] if len(ids) == 1 else ids or None


def _own(file: GgufFile) -> Architecture:
    """What is special of a file's architecture, once `Keys` has found that it is read."""
    return ARCHITECTURES[str(file.fields.get("general.architecture"))]


def hf_name(name: str, own: Architecture, path: Path) -> str:
    """The Hugging Face name of a GGUF tensor."""
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    parts = name.split(".")  # blk.<layer>.<what>.<weight or bias>
    if len(parts) == 4 and parts[0] == "blk" and (found := own.layer_name(parts[2])):
        return f"model.layers.{parts[1]}.{found}.{parts[3]}"
    raise ModelError(f"{path}: tensor {name} is unknown: this decoder does not use it.")


def weights_of(file: GgufFile) -> list[tuple[str, GgufTensor]]:
    """(Hugging Face name, tensor) of every weight; stacked experts one by one."""
    own, some = _own(file), (t for t in file.tensors.values() if t.name not in NO_WEIGHTS)
    named = ((hf_name(one.name, own, file.path), one) for one in some)
    return [each for name, one in named for each in _one_by_one(file, name, one)]


def _one_by_one(file: GgufFile, name: str, tensor: GgufTensor) -> Iterator[tuple[str, GgufTensor]]:
    """A tensor as it is; one of stacked experts (experts, rows, columns) expert by expert."""
    if ".experts." not in name:
        yield name, tensor
        return
    count = file.fields.get(f"{file.fields['general.architecture']}.expert_count")
    if len(tensor.shape) != 3 or tensor.shape[0] != count:
        raise ModelError(
            f"{file.path}: tensor {tensor.name} has shape {tensor.shape}, not those of {count} "
            "experts, one after another."
        )
    nbytes, shape = tensor.nbytes // tensor.shape[0], tensor.shape[1:]
    for number in range(tensor.shape[0]):
        at = tensor.offset + number * nbytes
        yield expert_name(name, number), replace(tensor, shape=shape, offset=at, nbytes=nbytes)


def split_heads(tensor: GgufTensor, config: dict[str, Any]) -> int:
    """The heads whose rows `half_split` puts back in order; 0 where they are in order."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    what = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else ""
    found = int(heads.get(what, 0)) if config["model_type"] in _PAIRED else 0
    if found and tensor.shape[0] % (2 * found):
        raise ModelError(f"tensor {tensor.name} has {tensor.shape[0]} rows, for {found} heads.")
    return found


def half_split(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undo llama.cpp's reordering of query and key rows.

    RoPE rotates dimensions in pairs. Files of the llama architecture store the two dimensions of a
    pair side by side. Hugging Face and our decoder store them half a head apart.
    """
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])  # (heads, head_dim / 2, 2, ...)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def values_of(file: GgufFile, tensor: GgufTensor, config: dict[str, Any]) -> np.ndarray:
    """The float32 values of a tensor as Hugging Face has them: exact, but for norms that are stored
    with an offset there (gguf_families.py), which are so to within rounding."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    try:
        values = dequantize(file.read(tensor), GGMLQuantizationType[tensor.kind])
    except NotImplementedError:
        raise ModelError(
            f"{file.path}: tensor {tensor.name} is {tensor.kind}, which cannot be dequantized."
        ) from None
    values = np.array(values, dtype=np.float32).reshape(tensor.shape)
    if tensor.name.endswith("norm.weight"):
        values -= _own(file).norm_offset
    heads = split_heads(tensor, config)
    return half_split(values, heads) if heads else values


def tensors(file: GgufFile, config: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """(Hugging Face name, float32 values) of every weight in the file, one at a time."""
    for name, tensor in weights_of(file):
        yield name, values_of(file, tensor, config)


def describe(path: Path, directory: Path) -> None:
    """Write a GGUF file's config and tokenizer into an empty directory.

    Raises ModelError for a file that is cut short, a model family that is not supported, and
    weights that are not the config's.
    """
    file = GgufFile(path)
    config = hf_config(file)
    check_weights(config, {name: tensor.shape for name, tensor in weights_of(file)}, path)
    save_tokenizer(file, directory)
    (directory / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def convert(path: Path, described: Path, directory: Path) -> None:
    """Convert a GGUF file into an empty directory, as Hugging Face's libraries read it.

    described: where `describe` wrote its config and tokenizer. One tensor at a time is in memory.
    """
    shutil.copytree(described, directory, dirs_exist_ok=True)
    file = GgufFile(path)
    config = hf_config(file)
    shapes = {name: tensor.shape for name, tensor in weights_of(file)}
    save_one_by_one(shapes, tensors(file, config), directory / "model.safetensors", path.name)
