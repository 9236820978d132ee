"""The shape of a decoder of the Llama, Qwen2 or Qwen3 family, read from a config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from labkit.errors import ModelError
from labkit.model.rope import number, read_rope

# model_type in config.json -> the family whose arithmetic it shares.
FAMILIES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
# The largest value of each size: far above any model's, and far below what a machine could hold.
_MOST = {
    "vocab_size": 2**24,
    "hidden_size": 2**18,
    "intermediate_size": 2**20,
    "num_hidden_layers": 2**12,
    "num_attention_heads": 2**12,
    "num_key_value_heads": 2**12,
    "head_dim": 2**12,
    "max_position_embeddings": 2**31,
}


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder-only transformer with RMSNorm, RoPE, GQA and SwiGLU."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_positions: int
    rope_scaling: Mapping[str, Any] | None = None
    tied_head: bool = False
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    eos_ids: tuple[int, ...] = ()
    bos_id: int | None = None
    sliding_window: int | None = None

    @property
    def group(self) -> int:
        """Query heads that share one KV head."""
        return self.heads // self.kv_heads

    def kv_bytes_per_token(self, element_bytes: float) -> float:
        """Bytes that one token of one sequence takes in the KV cache, over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * element_bytes


def _size(raw: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """A size from 1 on; ModelError where it is missing or is no such number."""
    value = raw.get(name)
    value = default if value is None else value
    if value is None:
        raise ModelError(f"{name} is missing.")
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST[name]:
        raise ModelError(
            f"{name} must be a whole number from 1 to {_MOST[name]:,}; it is {value!r}."
        )
    return value


def _flag(raw: Mapping[str, Any], name: str) -> bool:
    value = raw.get(name, False)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise ModelError(f"{name} must be true or false; it is {value!r}.")
    return value


def _ids(value: Any, name: str) -> tuple[int, ...]:
    """Token ids: none, one, or a list."""
    some = [] if value is None else value if isinstance(value, list) else [value]
    for one in some:
        if isinstance(one, bool) or not isinstance(one, int) or one < 0:
            raise ModelError(f"{name} must be a token's number or a list of them; it is {value!r}.")
    return tuple(some)


def _family(raw: Mapping[str, Any]) -> str:
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        allowed = ", ".join(sorted(FAMILIES))
        raise ModelError(f"model family {kind!r} is not supported; supported: {allowed}.")
    return FAMILIES[kind]


def _window(raw: Mapping[str, Any], layers: int) -> int | None:
    """The sliding window of all layers, or None; ModelError when only some layers have one."""
    if raw["model_type"] == "llama":
        return None
    width = raw.get("sliding_window", 4096)  # the default of transformers' configs
    if width is not None and (isinstance(width, bool) or not isinstance(width, int) or width < 1):
        raise ModelError(f"sliding_window must be a whole number from 1 on; it is {width!r}.")
    if raw["model_type"] == "mistral":
        return width
    full = raw.get("max_window_layers", 28)
    if isinstance(full, bool) or not isinstance(full, int) or full < 0:
        raise ModelError(f"max_window_layers must be a whole number; it is {full!r}.")
    full = min(full, layers)
    kinds = raw.get("layer_types") or ["full"] * full + ["sliding_attention"] * (layers - full)
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise ModelError(f"layer_types must be a list of {layers} names; it is {kinds!r}.")
    if not _flag(raw, "use_sliding_window") or "sliding_attention" not in kinds:
        return None
    if len(set(kinds)) > 1:
        raise ModelError("a sliding window in only some of the layers is not supported.")
    return width


def _heads(raw: Mapping[str, Any]) -> tuple[int, int, int]:
    """Query heads, KV heads, and numbers of a head."""
    heads, hidden = _size(raw, "num_attention_heads"), _size(raw, "hidden_size")
    kv_heads = _size(raw, "num_key_value_heads", heads)
    head_dim = _size(raw, "head_dim", max(1, hidden // heads))
    if heads % kv_heads:
        raise ModelError(f"{kv_heads} KV heads do not divide {heads} heads.")
    if head_dim % 2:
        raise ModelError(f"head_dim must be even, for RoPE turns pairs; it is {head_dim}.")
    return heads, kv_heads, head_dim


def config_from_dict(raw: Mapping[str, Any]) -> ModelConfig:
    """Read a Hugging Face config.json mapping.

    Raises ModelError for a family, activation or RoPE scaling that is not supported, and for a
    value that cannot be.
    """
    family = _family(raw)
    activation = raw.get("hidden_act", "silu")
    if activation != "silu":
        raise ModelError(f"activation {activation!r} is not supported; supported: silu.")
    heads, kv_heads, head_dim = _heads(raw)
    layers = _size(raw, "num_hidden_layers")
    positions = _size(raw, "max_position_embeddings", 2048)
    theta, scaling = read_rope(raw, head_dim, positions)
    eps = number(raw.get("rms_norm_eps", 1e-6), "rms_norm_eps")
    if not 0 < eps < 1:
        raise ModelError(f"rms_norm_eps must lie between 0 and 1; it is {eps:g}.")
    llama_bias = _flag(raw, "attention_bias")
    bos = _ids(raw.get("bos_token_id"), "bos_token_id")
    return ModelConfig(
        family=family,
        vocab_size=_size(raw, "vocab_size"),
        hidden_size=_size(raw, "hidden_size"),
        intermediate_size=_size(raw, "intermediate_size"),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=eps,
        rope_theta=theta,
        rope_scaling=scaling,
        max_positions=positions,
        tied_head=_flag(raw, "tie_word_embeddings"),
        attention_bias=True if family == "qwen2" else llama_bias,
        output_bias=llama_bias if family != "qwen2" else False,
        mlp_bias=_flag(raw, "mlp_bias"),
        qk_norm=family == "qwen3",
        eos_ids=_ids(raw.get("eos_token_id"), "eos_token_id"),
        bos_id=bos[0] if bos else None,
        sliding_window=_window(raw, layers),
    )


def _json(path: Path) -> dict[str, Any]:
    """A JSON object of a file; ModelError for anything else."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise ModelError(f"{path} is not readable as JSON: {error}.") from error
    if not isinstance(raw, dict):
        raise ModelError(f"{path} must hold a JSON object; it holds {type(raw).__name__}.")
    return raw


def read_config(directory: Path) -> ModelConfig:
    """The config of a model directory; ModelError when it has none or it is broken.

    Stop tokens are those of config.json and of generation_config.json: many models name the end of
    a turn only there.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise ModelError(f"{directory} has no config.json: it is not a model directory.")
    raw = _json(path)
    try:
        config = config_from_dict(raw)
        generation = directory / "generation_config.json"
        more = _json(generation).get("eos_token_id") if generation.is_file() else None
        ids = dict.fromkeys((*config.eos_ids, *_ids(more, "eos_token_id")))
    except ModelError as error:
        raise ModelError(f"{path} is not a readable model config: {error}") from None
    return replace(config, eos_ids=tuple(ids))
