"""The families of models, and what each does in its own way: read here into ModelConfig's fields.

This is the one place that knows families by name. The decoders compute what the fields say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from labkit.base.units import shown
from labkit.errors import ModelError
from labkit.model.experts import read_experts
from labkit.model.rope import rope_base, rope_parameters
from labkit.model.values import flag, mapping, multiplier, must_be, size

_SILU = {"silu": "silu", "swish": "silu"}
_GELU = {"gelu_pytorch_tanh": "gelu_tanh"}
_FULL, _SLIDING = "full_attention", "sliding_attention"
Raw = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """What models of one model_type share.

    name: the family whose arithmetic it is. read(raw, layers): the fields of ModelConfig in which
    it differs. defaults: of keys that its config.json may leave out, where other families have
    other ones. plain(raw): the same config in the keys that all families have. activations: the
    config's name of each that is computed, and ours. partial_rotary: RoPE may turn a part of a
    head.
    """

    name: str
    read: Callable[[Raw, int], dict[str, Any]]
    defaults: Raw = field(default_factory=dict)
    plain: Callable[[dict[str, Any]], dict[str, Any]] = lambda raw: raw
    activations: Mapping[str, str] = field(default_factory=lambda: _SILU)
    partial_rotary: bool = False


def _biases(raw: Raw) -> dict[str, Any]:
    """Biases as Llama has them: of all four projections of attention, and of the feed-forward."""
    attention = flag(raw, "attention_bias")
    return {
        "attention_bias": attention, "output_bias": attention, "mlp_bias": flag(raw, "mlp_bias")
    }  # fmt: skip


def _attention_biases(raw: Raw) -> dict[str, Any]:
    """Biases of attention alone: transformers has none in these families' feed-forward."""
    must_be(raw, "mlp_bias", False)
    return _biases({"attention_bias": raw.get("attention_bias")})


def _layer_types(raw: Raw, layers: int, default: Sequence[str]) -> list[str]:
    """Which layers have the window and which see everything; ModelError for other kinds."""
    kinds = raw.get("layer_types")
    kinds = list(default) if kinds is None else kinds
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise ModelError(f"layer_types must be a list of {layers} names; it is {shown(kinds)}.")
    for kind in kinds:
        if kind not in (_FULL, _SLIDING):
            raise ModelError(
                f"layer_types: {shown(kind)} is not supported; supported: {_FULL}, {_SLIDING}."
            )
    return kinds


def _windows(raw: Raw, kinds: Sequence[str], used: bool = True) -> dict[str, Any]:
    """The window, and the layers that have it; ModelError where they have one that is not used."""
    if _SLIDING not in kinds:
        return {}
    if not used or raw.get("sliding_window") is None:
        raise ModelError(
            f"layer_types names {_SLIDING}, but there is no sliding window in use: sliding_window "
            f"is {shown(raw.get('sliding_window'))}, use_sliding_window "
            f"{shown(raw.get('use_sliding_window'))}."
        )
    found: dict[str, Any] = {"sliding_window": size(raw, "sliding_window")}
    if _FULL in kinds:
        found["windowed"] = tuple(kind == _SLIDING for kind in kinds)
    return found


def _alike(raw: Raw, layers: int, window: bool = False) -> dict[str, Any]:
    """The window of a family whose layers all have it, or none. Its models do not look at
    layer_types, so ModelError where these say something else."""
    own = _SLIDING if window and raw.get("sliding_window") is not None else _FULL
    kinds = _layer_types(raw, layers, [own] * layers)
    if odd := [kind for kind in kinds if kind != own]:
        raise ModelError(
            f"layer_types: {odd[0]!r} is not supported where all layers are {own}, as "
            f"{raw['model_type']} has them with sliding_window {shown(raw.get('sliding_window'))}."
        )
    return _windows(raw, kinds)


def _llama(raw: Raw, layers: int) -> dict[str, Any]:
    return _biases(raw) | _alike(raw, layers)


def _mistral(raw: Raw, layers: int) -> dict[str, Any]:
    must_be(raw, "attention_bias", False)
    return _attention_biases(raw) | _alike(raw, layers, window=True)


def _qwen_window(raw: Raw, layers: int) -> dict[str, Any]:
    """Qwen's windows begin at a layer, where they are used at all."""
    used = flag(raw, "use_sliding_window")
    full = raw.get("max_window_layers", 28)
    if isinstance(full, bool) or not isinstance(full, int) or full < 0:
        raise ModelError(f"max_window_layers must be a whole number; it is {full!r}.")
    full = min(full, layers) if used and raw.get("sliding_window") is not None else layers
    kinds = _layer_types(raw, layers, [_FULL] * full + [_SLIDING] * (layers - full))
    return _windows(raw, kinds, used)


def _qwen2(raw: Raw, layers: int) -> dict[str, Any]:
    own = {"attention_bias": True, "output_bias": False}
    return _attention_biases(raw) | own | _qwen_window(raw, layers)


def _qwen3(raw: Raw, layers: int) -> dict[str, Any]:
    return _attention_biases(raw) | {"qk_norm": True} | _qwen_window(raw, layers)


def _qwen3_moe(raw: Raw, layers: int) -> dict[str, Any]:
    """Qwen3 with mixtures of experts; a window, where it is used, is one of all layers."""
    window = _alike(raw, layers, flag(raw, "use_sliding_window"))
    own = {"qk_norm": True, "experts": read_experts(raw, layers)}
    return _attention_biases(raw) | own | window


def _gemma3(raw: Raw, layers: int) -> dict[str, Any]:
    """Gemma 3 (2503.19786): norms on both sides, whose weights are stored less 1; layers with a
    window, and every sixth without, of another base of RoPE; embeddings times sqrt(hidden)."""
    must_be(raw, "attn_logit_softcapping")
    must_be(raw, "final_logit_softcapping")
    must_be(raw, "use_bidirectional_attention", False)
    every = size(raw, "sliding_window_pattern", 6)
    default = [_SLIDING if (layer + 1) % every else _FULL for layer in range(layers)]
    windows = _windows(raw, _layer_types(raw, layers, default))
    local = mapping(raw, "local_rope")
    return _attention_biases(raw) | windows | {
        "local_rope_theta": local["rope_theta"] if windows else None,
        "qk_norm": True,
        "post_norms": True,
        "embedding_multiplier": size(raw, "hidden_size") ** 0.5,
        "attention_multiplier": size(raw, "query_pre_attn_scalar") ** -0.5,
        "norm_offset": 1.0,
    }  # fmt: skip


def _gemma3_plain(raw: dict[str, Any]) -> dict[str, Any]:
    """RoPE of both kinds of layers, in the keys of transformers 4 or of 5.

    transformers reads no original context beside these, and of rope_scaling not the old `type`.
    """
    older = mapping(raw, "rope_scaling")
    if "type" in older and "rope_type" not in older:
        raise ModelError(
            f"rope_scaling: type {shown(older['type'])} without rope_type is not supported: "
            "transformers 5 does not scale by it, older ones do. Name it rope_type."
        )
    both = mapping(raw, "rope_parameters")
    if odd := sorted(both.keys() - {_FULL, _SLIDING}):
        raise ModelError(
            f"rope_parameters: {odd[0]!r} is not supported; allowed: {_FULL}, {_SLIDING}."
        )
    local = {"rope_theta": raw.get("rope_local_base_freq", 1e4)} | mapping(both, _SLIDING)
    must_be(local, "rope_type", "default")
    if odd := sorted(local.keys() - {"rope_type", "rope_theta"}):
        raise ModelError(
            f"rope_parameters of {_SLIDING}: {odd[0]!r} is not supported; allowed: rope_theta."
        )
    local["rope_theta"] = rope_base(local["rope_theta"])
    full = {"rope_theta": raw.get("rope_theta", 1e6)} | mapping(both, _FULL) | older
    if "truncate" in full:  # transformers looks for it where it does not stand
        raise ModelError(f"rope_parameters of {_FULL}: 'truncate' is not supported; leave it out.")
    return {
        **raw, "hidden_act": raw.get("hidden_activation"), "local_rope": local,
        "rope_parameters": full, "rope_scaling": None, "original_max_position_embeddings": None,
    }  # fmt: skip


def _phi3(raw: Raw, layers: int) -> dict[str, Any]:
    must_be(raw, "attention_bias", False)
    must_be(raw, "mlp_bias", False)
    return {"joined_projections": True} | _alike(raw, layers, window=True)


def _phi3_plain(raw: dict[str, Any]) -> dict[str, Any]:
    """LongRoPE has had three names, and its original context stands beside it."""
    parameters = rope_parameters(raw)
    kind = parameters.pop("type", None)
    kind = parameters.get("rope_type") or kind or "default"
    if kind in ("su", "yarn", "longrope"):
        kind = "longrope"
        original = size(raw, "original_max_position_embeddings")
        parameters["original_max_position_embeddings"] = original
    elif kind != "default":
        raise ModelError(f"rope_type {shown(kind)} is not supported; allowed: default, longrope.")
    return {**raw, "rope_parameters": parameters | {"rope_type": kind}, "rope_scaling": None}


def _smollm3(raw: Raw, layers: int) -> dict[str, Any]:
    """SmolLM3 does not rotate every fourth layer (NoPE; Yang et al., 2501.18795)."""
    every = size(raw, "no_rope_layer_interval", 4)
    marks = raw.get("no_rope_layers")
    marks = [int((n + 1) % every != 0) for n in range(layers)] if marks is None else marks
    good = isinstance(marks, list) and all(type(one) is int and one in (0, 1) for one in marks)
    if not good or len(marks) < layers:
        raise ModelError(f"no_rope_layers must be {layers} numbers, 0 or 1; it is {shown(marks)}.")
    rotated, used = tuple(one == 1 for one in marks[:layers]), flag(raw, "use_sliding_window")
    slides = used and raw.get("sliding_window") is not None
    kinds = _layer_types(raw, layers, [_SLIDING if slides and not r else _FULL for r in rotated])
    return _biases(raw) | _windows(raw, kinds, used) | {"rotated": () if all(rotated) else rotated}


def _olmo2(raw: Raw, layers: int) -> dict[str, Any]:
    """OLMo 2 (2501.00656): norms of results alone, and of queries and keys over all heads."""
    own = {"qk_norm": True, "qk_norm_whole": True, "pre_norms": False, "post_norms": True}
    return _attention_biases(raw) | own | _alike(raw, layers)


def _granite(raw: Raw, layers: int) -> dict[str, Any]:
    """Granite: multipliers as in maximal update parametrization (Yang et al., 2203.03466)."""
    return _biases(raw) | _alike(raw, layers) | {
        "embedding_multiplier": multiplier(raw, "embedding_multiplier"),
        "residual_multiplier": multiplier(raw, "residual_multiplier"),
        "attention_multiplier": multiplier(raw, "attention_multiplier"),
        "logits_divisor": multiplier(raw, "logits_scaling"),
    }  # fmt: skip


# model_type in config.json -> its family. What a config.json leaves out is what transformers'
# configuration class of the model_type has.
_LLAMA2 = {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2}
_QWEN = {"max_position_embeddings": 32768, "sliding_window": 4096}
FAMILIES = {
    "llama": Family("llama", _llama, _LLAMA2),
    "mistral": Family(
        "llama", _mistral,
        _LLAMA2
        | {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
    ),
    "qwen2": Family("qwen2", _qwen2, _QWEN | {"num_key_value_heads": 32}),
    "qwen3": Family("qwen3", _qwen3, _QWEN | {"num_key_value_heads": 32, "head_dim": 128}),
    "qwen3_moe": Family("qwen3_moe", _qwen3_moe, _QWEN | {"num_key_value_heads": 4}),
    "gemma3_text": Family(
        "gemma3", _gemma3,
        {
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
            "max_position_embeddings": 131072, "tie_word_embeddings": True, "sliding_window": 4096,
            "query_pre_attn_scalar": 256, "bos_token_id": 2, "eos_token_id": 1,
        },
        _gemma3_plain, _GELU,
    ),
    "phi3": Family(
        "phi3", _phi3,
        {
            "max_position_embeddings": 4096, "original_max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 32000,
        },
        _phi3_plain, partial_rotary=True,
    ),
    "smollm3": Family(
        "smollm3", _smollm3,
        {
            "num_key_value_heads": 4, "max_position_embeddings": 32768, "rope_theta": 2e6,
            "tie_word_embeddings": True, "bos_token_id": 128000, "eos_token_id": 128001,
        },
    ),
    "olmo2": Family(
        "olmo2", _olmo2,
        {"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "eos_token_id": 50279},
    ),
    "granite": Family("granite", _granite, _LLAMA2),
}  # fmt: skip
