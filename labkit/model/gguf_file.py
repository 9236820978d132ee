"""GGUF files: read, checked, and converted once to a Hugging Face directory.

Conversion makes a directory with config.json, model.safetensors and the tokenizer's files. Both
this package and transformers read it, so that they compute with the same numbers.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from labkit.errors import ModelError

ARCHITECTURES = ("llama", "qwen2", "qwen3")

# GGUF tensor name within a block -> Hugging Face name within a layer.
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def open_gguf(path: Path) -> Any:
    """A gguf.GGUFReader for a complete file; ModelError for one that is missing or cut short."""
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
    except FileNotFoundError:
        raise ModelError(f"no such file: {path}.") from None
    except Exception as error:  # the reader fails in many ways on a cut or foreign file
        raise ModelError(
            f"{path} cannot be read as GGUF ({error}): it is cut short or not a GGUF file. "
            "Fetch it again."
        ) from error
    size = path.stat().st_size
    for tensor in reader.tensors:
        if tensor.data_offset + tensor.n_bytes > size:
            raise ModelError(
                f"{path} is cut short: tensor {tensor.name} ends at byte "
                f"{tensor.data_offset + tensor.n_bytes}, the file at {size}. Fetch it again."
            )
    return reader


def field(reader: Any, name: str, default: Any = None) -> Any:
    """A metadata value, or the default where the file does not have it."""
    entry = reader.fields.get(name)
    return default if entry is None else entry.contents()


def hf_config(reader: Any, path: Path) -> dict[str, Any]:
    """The config.json that describes this file; ModelError for an unsupported family."""
    arch = field(reader, "general.architecture")
    if arch not in ARCHITECTURES:
        allowed = ", ".join(ARCHITECTURES)
        raise ModelError(f"{path}: architecture {arch!r} is not supported; supported: {allowed}.")
    names = {tensor.name for tensor in reader.tensors}
    scaling = field(reader, f"{arch}.rope.scaling.type", "none")
    if scaling != "none" or "rope_freqs.weight" in names:
        raise ModelError(f"{path}: RoPE scaling in a GGUF file is not supported; use safetensors.")
    heads = field(reader, f"{arch}.attention.head_count")
    hidden = field(reader, f"{arch}.embedding_length")
    return {
        "architectures": [
            {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}.get(arch, "Qwen3ForCausalLM")
        ],
        "model_type": arch,
        "hidden_act": "silu",
        "vocab_size": _tensor(reader, "token_embd.weight", path).shape[-1].item(),
        "hidden_size": hidden,
        "intermediate_size": field(reader, f"{arch}.feed_forward_length"),
        "num_hidden_layers": field(reader, f"{arch}.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": field(reader, f"{arch}.attention.head_count_kv", heads),
        "head_dim": field(reader, f"{arch}.attention.key_length", hidden // heads),
        "rms_norm_eps": field(reader, f"{arch}.attention.layer_norm_rms_epsilon"),
        "rope_theta": field(reader, f"{arch}.rope.freq_base", 10000.0),
        "max_position_embeddings": field(reader, f"{arch}.context_length"),
        "tie_word_embeddings": "output.weight" not in names,
        "attention_bias": arch == "llama" and "blk.0.attn_q.bias" in names,
        "bos_token_id": field(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": field(reader, "tokenizer.ggml.eos_token_id"),
        "torch_dtype": "float32",
    }


def _tensor(reader: Any, name: str, path: Path) -> Any:
    for tensor in reader.tensors:
        if tensor.name == name:
            return tensor
    raise ModelError(f"{path} has no tensor {name}.")


def hf_name(name: str, path: Path) -> str:
    """The Hugging Face name of a GGUF tensor."""
    if name in _TOP_NAMES:
        return _TOP_NAMES[name]
    parts = name.split(".")  # blk.<layer>.<what>.<weight or bias>
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in _LAYER_NAMES:
        return f"model.layers.{parts[1]}.{_LAYER_NAMES[parts[2]]}.{parts[3]}"
    raise ModelError(f"{path}: tensor {name} is unknown: this decoder does not use it.")


def half_split(rows: np.ndarray, heads: int) -> np.ndarray:
    """Undo llama.cpp's reordering of query and key rows.

    RoPE rotates dimensions in pairs. Files of the llama architecture store the two dimensions of a
    pair side by side. Hugging Face and our decoder store them half a head apart.
    """
    pairs = rows.reshape(heads, -1, 2, *rows.shape[1:])  # (heads, head_dim / 2, 2, ...)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def tensors(reader: Any, config: dict[str, Any], path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(Hugging Face name, exact float32 values) of every tensor in the file."""
    from gguf.quants import dequantize

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for tensor in reader.tensors:
        values = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        values = values.reshape(tuple(int(n) for n in reversed(tensor.shape)))
        what = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else ""
        if config["model_type"] == "llama" and what in heads:
            values = half_split(values, heads[what])
        yield hf_name(tensor.name, path), values


def convert(path: Path, directory: Path) -> None:
    """Convert a GGUF file to a Hugging Face directory, all of it or nothing.

    Raises ModelError for a file that is cut short, or a model family that is not supported.
    """
    reader = open_gguf(path)
    config = hf_config(reader, path)
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        save_file(dict(tensors(reader, config, path)), work / "model.safetensors", {"format": "pt"})
        _save_tokenizer(path, work)
        (work / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        if directory.exists():  # another process was faster
            return
        work.replace(directory)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _save_tokenizer(path: Path, directory: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    tokenizer.save_pretrained(directory)
