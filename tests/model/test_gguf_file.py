"""GGUF files: exact numbers, rows put back in order, broken files refused, nothing half done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

from labkit.model.load import load
from tests.conftest import Tiny

Weights = dict[str, np.ndarray]
F32, Q8_0, Q4_0, Q4_1 = (
    getattr(GGMLQuantizationType, name) for name in ("F32", "Q8_0", "Q4_0", "Q4_1")
)
# Ours written down a second time, from llama.cpp's tensor list, so that a slip shows.
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
}  # fmt: skip
# Of models that have names, reordered rows or norms of their own (by transformers' model_type).
_POST = {
    "post_attention_layernorm": "post_attention_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
OWN_NAMES = {
    "gemma3_text": _POST | {"pre_feedforward_layernorm": "ffn_norm"}, "olmo2": _POST,
    "phi3": {"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"},
}  # fmt: skip
REORDERED = ("llama", "smollm3", "granite")


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's `permute` (convert_hf_to_gguf.py): halves of a head become neighbours."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def gguf_weights(reference: Any) -> Weights:
    """A transformers model's tensors, named and ordered as llama.cpp's converter leaves them."""
    config, found = reference.config, {}
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, tensor in reference.state_dict().items():
        module, _, kind = name.rpartition(".")
        if module == "lm_head" and config.tie_word_embeddings:
            continue
        layer = ""
        if module.startswith("model.layers."):
            _, _, number, module = module.split(".", 3)
            layer = f"blk.{number}."
        if module.endswith("mlp.experts"):  # stacked, without ".weight"
            found |= stacked_experts(layer, kind, tensor.numpy())
            continue
        names = NAMES | OWN_NAMES.get(config.model_type, {})
        short, values = names[module], tensor.numpy().copy()
        if config.model_type in REORDERED and short in heads:
            values = interleave(values, heads[short])
        if config.model_type == "gemma3_text" and short.endswith("norm"):
            values += 1  # llama.cpp's norms multiply by what they have
        found[f"{layer}{short}.{kind}"] = values
    rope = config.rope_parameters
    for which in ("long", "short"):
        if f"{which}_factor" in rope and config.model_type == "phi3":
            factors = np.array(rope[f"{which}_factor"], dtype=np.float32)
            found[f"rope_factors_{which}.weight"] = factors
    return found


def own_keys(config: Any) -> dict[str, float]:
    """The keys that llama.cpp's converter writes for one family alone."""
    kind, rope = config.model_type, config.rope_parameters
    if kind == "qwen3_moe":
        return {
            "expert_count": config.num_experts, "expert_used_count": config.num_experts_per_tok,
            "expert_feed_forward_length": config.moe_intermediate_size,
        }  # fmt: skip
    if kind == "gemma3_text":
        return {
            "attention.sliding_window": config.sliding_window,
            "attention.sliding_window_pattern": config.layer_types.index("full_attention") + 1,
            "rope.freq_base_swa": rope["sliding_attention"]["rope_theta"],
        }
    if kind == "phi3":
        share = rope.get("partial_rotary_factor", 1.0)
        return {
            "rope.dimension_count": int(config.head_dim * share),
            "rope.scaling.original_context_length": config.original_max_position_embeddings,
            "rope.scaling.attn_factor": rope.get("attention_factor", 1.0),
            "attention.sliding_window": config.sliding_window or 0,
        }
    if kind == "granite":
        return {
            "attention.scale": config.attention_multiplier, "logit_scale": config.logits_scaling,
            "embedding_scale": config.embedding_multiplier,
            "residual_scale": config.residual_multiplier,
        }  # fmt: skip
    return {}


def stacked_experts(layer: str, kind: str, values: np.ndarray) -> Weights:
    """A layer's experts (experts, rows, columns); transformers keeps gate and up in one tensor."""
    if kind == "down_proj":
        return {f"{layer}ffn_down_exps.weight": values.copy()}
    gate, up = np.split(values, 2, axis=1)
    return {f"{layer}ffn_gate_exps.weight": gate.copy(), f"{layer}ffn_up_exps.weight": up.copy()}


def _add_tensors(
    writer: Any,
    weights: Weights,
    kind: GGMLQuantizationType,
    raw: Mapping[str, tuple[np.ndarray, GGMLQuantizationType]],
) -> None:
    for name, values in weights.items():
        if name in raw:
            rows, own = raw[name]
            if own.name in ("F16", "F32"):
                rows = rows.view({"F16": np.float16, "F32": np.float32}[own.name])
                writer.add_tensor(name, rows)
            else:
                writer.add_tensor(name, rows, raw_shape=rows.shape, raw_dtype=own)
        elif values.ndim > 1 and kind != F32 and "ffn_gate_inp" not in name:
            blocks = quantize(values, kind)
            writer.add_tensor(name, blocks, raw_shape=blocks.shape, raw_dtype=kind)
        else:
            writer.add_tensor(name, values.astype(np.float32))


def write_gguf(
    path: Path,
    reference: Any,
    weights: Weights,
    kind: GGMLQuantizationType = F32,
    arch: str | None = None,
    more: Callable[[GGUFWriter], object] = lambda writer: None,
    raw: Mapping[str, tuple[np.ndarray, GGMLQuantizationType]] = MappingProxyType({}),
) -> Path:
    """A GGUF file of these tensors, matrices in blocks of `kind`, with a byte-level tokenizer.

    raw: rows as bytes and their format, for tensors that are not to be quantized here.
    """
    config = reference.config
    arch = arch or config.model_type.removesuffix("_text").replace("_", "")
    writer = GGUFWriter(path, arch)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    for key, value in own_keys(config).items():
        add = writer.add_uint32 if isinstance(value, int) else writer.add_float32
        add(f"{arch}.{key}", value)
    more(writer)
    tokens = ["<s>", "</s>", "<unk>", *(chr(33 + n) for n in range(93)), "ab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3] + [1] * 94)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    _add_tensors(writer, weights, kind, raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


FAMILIES = [
    "llama", "llama-tied", "llama-mha", "llama-wide-heads", "qwen2", "qwen2-tied", "qwen3",
    "gemma3", "phi3", "phi3-window", "phi4-mini", "smollm3", "olmo2", "granite",
    "granite-biases-tied", "qwen3-moe",
]  # fmt: skip


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("name", FAMILIES)
def test_a_gguf_file_computes_what_its_model_did(
    name: str, make_tiny: Callable[[str], Tiny], tmp_path: Path
) -> None:
    from labkit.model.rows import Rows

    tiny, ids = make_tiny(name), list(range(3, 30))
    file = write_gguf(tmp_path / "tiny.gguf", tiny.reference, gguf_weights(tiny.reference))
    model = load(file, "cpu")
    logits = model.decoder(Rows.prefill(ids, all_logits=True), model.decoder.new_cache(1, 30))
    assert (logits - tiny.logits(ids)).abs().max() <= 1e-4
    assert (model.name, model.source) == ("tiny", file)


@pytest.mark.usefixtures("own_cache")
def test_the_tokenizer_comes_along(llama: Tiny, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", llama.reference, gguf_weights(llama.reference))
    tokenizer = load(file, "cpu").tokenizer
    ids = tokenizer.encode("abba", add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == ["ab", "b", "a"]
