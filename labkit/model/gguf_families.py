"""What each architecture of GGUF files stores and says in its own way.

Names of tensors and keys: llama.cpp's conversion/*.py and src/models/*.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.model.gguf_keys import Keys

# Tensors of what RoPE's frequencies are divided by.
FREQUENCIES = "rope_freqs.weight"
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"
# GGUF tensor name within a block -> Hugging Face name within a layer, for most architectures.
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
_EXPERTS = {  # of a layer's mixture, each stacked in one tensor
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.gate_proj",
    "ffn_up_exps": "mlp.experts.up_proj",
    "ffn_down_exps": "mlp.experts.down_proj",
}
_POST_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    model, kind: transformers' class and model_type. read(keys, config): what its keys say beyond
    those that all have, as entries of a config.json. keys: those that only it reads. names: of
    tensors that have their own. paired: the two numbers of a pair that RoPE turns lie side by side
    in rows of queries and keys; elsewhere they are half a head apart. norm_offset: what files add
    to the weights of norms. partial_rotary: RoPE may turn a part of a head. factors: tensors of
    what RoPE's frequencies are divided by, where llama.cpp reads them; it refuses others.
    """

    model: str
    kind: str
    read: Callable[[Keys, Mapping[str, Any]], dict[str, Any]]
    keys: frozenset[str] = frozenset()
    names: Mapping[str, str] = field(default_factory=dict)
    paired: bool = False
    norm_offset: float = 0.0
    partial_rotary: bool = False
    factors: frozenset[str] = frozenset()

    def layer_name(self, name: str) -> str | None:
        """The Hugging Face name of a tensor within a block; None for an unknown one, and for one
        whose weight has another name in this architecture."""
        if name in self.names:
            return self.names[name]
        found = _LAYER_NAMES.get(name)
        return None if found in self.names.values() else found


def _plain(keys: Keys, config: Mapping[str, Any]) -> dict[str, Any]:
    return {}


def _biases(keys: Keys) -> dict[str, Any]:
    """Biases are there where their tensors are."""
    names = keys.file.tensors
    return {
        "attention_bias": "blk.0.attn_q.bias" in names, "mlp_bias": "blk.0.ffn_up.bias" in names
    }  # fmt: skip


def _llama(keys: Keys, config: Mapping[str, Any]) -> dict[str, Any]:
    return {"attention_bias": _biases(keys)["attention_bias"]}


def _qwen3_moe(keys: Keys, config: Mapping[str, Any]) -> dict[str, Any]:
    """llama.cpp scales the weights of a row's experts to sum to 1 in every such model, and has a
    mixture in every layer."""
    return {
        "num_experts": keys.size("expert_count"),
        "num_experts_per_tok": keys.size("expert_used_count"),
        "moe_intermediate_size": keys.size("expert_feed_forward_length"),
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _gemma3(keys: Keys, config: Mapping[str, Any]) -> dict[str, Any]:
    """Every sixth layer sees everything, unless a key says more. The scaling of RoPE is theirs."""
    keys.must_be("rope.scaling.attn_factor", 1.0, "layers with a window would have it too")
    layers, head_dim = config["num_hidden_layers"], config["head_dim"]
    window = keys.count("attention.sliding_window")
    marks = (
        keys.marks("attention.sliding_window_pattern", layers, 6) if window else [False] * layers
    )
    # llama.cpp knows the 27B model, whose scores are scaled in another way, by its layers.
    largest = layers == 62
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": (
            config["hidden_size"] // config["num_attention_heads"] if largest else head_dim
        ),
        "sliding_window": window or None,
        "layer_types": ["sliding_attention" if one else "full_attention" for one in marks],
        "rope_parameters": {
            "full_attention": config["rope_parameters"],
            "sliding_attention": {
                "rope_type": "default", "rope_theta": keys.number("rope.freq_base_swa", 1e4)
            },
        },
    }  # fmt: skip


def _phi3(keys: Keys, config: Mapping[str, Any]) -> dict[str, Any]:
    rope = config["rope_parameters"]
    if rope["rope_type"] not in ("default", "longrope"):
        raise keys.wrong("rope.scaling.type", f"{rope['rope_type']}, is not computed: {LONG} is")
    context = config["max_position_embeddings"]
    share = keys.size("rope.dimension_count", config["head_dim"]) / config["head_dim"]
    return {
        "sliding_window": keys.count("attention.sliding_window") or None,
        "original_max_position_embeddings": rope.get("original_max_position_embeddings", context),
        "rope_parameters": rope | {"partial_rotary_factor": share},
    }


def _smollm3(keys: Keys, config: Mapping[str, Any]) -> dict[str, Any]:
    """No key says which layers do not turn: llama.cpp takes every fourth."""
    return _biases(keys) | {"no_rope_layer_interval": 4, "use_sliding_window": False}


def _granite(keys: Keys, config: Mapping[str, Any]) -> dict[str, Any]:
    """Where a scale is 0, llama.cpp takes what other models do. Where one is missing, transformers
    and llama.cpp differ, so it must be there."""
    if keys.given("rope.scaling.finetuned") is False:
        raise keys.wrong("rope.scaling.finetuned", "False, is not computed: nothing would turn")
    scale = keys.number("attention.scale")
    return _biases(keys) | {
        "attention_multiplier": scale or config["head_dim"] ** -0.5,
        "embedding_multiplier": keys.number("embedding_scale") or 1.0,
        "residual_multiplier": keys.number("residual_scale") or 1.0,
        "logits_scaling": keys.number("logit_scale"),
    }


_FREQS = frozenset({FREQUENCIES})
_WINDOW = frozenset({"attention.sliding_window"})
_SCALES = frozenset({"attention.scale", "embedding_scale", "residual_scale", "logit_scale"})
# By general.architecture.
ARCHITECTURES = {
    "llama": Architecture("LlamaForCausalLM", "llama", _llama, paired=True, factors=_FREQS),
    "qwen2": Architecture("Qwen2ForCausalLM", "qwen2", _plain),
    "qwen3": Architecture("Qwen3ForCausalLM", "qwen3", _plain),
    "qwen3moe": Architecture(
        "Qwen3MoeForCausalLM", "qwen3_moe", _qwen3_moe,
        frozenset({"expert_count", "expert_used_count", "expert_feed_forward_length"}), _EXPERTS,
    ),
    "gemma3": Architecture(
        "Gemma3ForCausalLM", "gemma3_text", _gemma3,
        _WINDOW | {"attention.sliding_window_pattern", "rope.freq_base_swa"},
        _POST_NORMS | {"ffn_norm": "pre_feedforward_layernorm"}, norm_offset=1.0,
    ),
    "phi3": Architecture(
        "Phi3ForCausalLM", "phi3", _phi3, _WINDOW,
        {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}, partial_rotary=True,
        factors=frozenset({LONG, SHORT}),
    ),
    "smollm3": Architecture("SmolLM3ForCausalLM", "smollm3", _smollm3, paired=True),
    "olmo2": Architecture("Olmo2ForCausalLM", "olmo2", _plain, names=_POST_NORMS),
    "granite": Architecture(
        "GraniteForCausalLM", "granite", _granite, _SCALES, paired=True, factors=_FREQS
    ),
}  # fmt: skip
