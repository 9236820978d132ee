"""The shape of a decoder of the Llama, Qwen2 or Qwen3 family, read from a config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.errors import ModelError

# model_type in config.json -> the family whose arithmetic it shares.
FAMILIES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
# The parameters that each supported RoPE scaling must have.
_SCALING_KEYS = {
    "linear": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
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


def _rope(raw: Mapping[str, Any]) -> tuple[float, Mapping[str, Any] | None]:
    """RoPE base and scaling; transformers 5 files keep both under `rope_parameters`."""
    parameters = dict(raw.get("rope_parameters") or {})
    theta = float(parameters.pop("rope_theta", raw.get("rope_theta", 10000.0)))
    scaling = raw.get("rope_scaling") or parameters
    kind = scaling.get("rope_type", scaling.get("type", "default")) if scaling else "default"
    if kind == "default":
        return theta, None
    if kind not in _SCALING_KEYS:
        raise ModelError(
            f"RoPE scaling {kind!r} is not supported; allowed: default, linear, llama3."
        )
    return theta, {"rope_type": kind} | {key: float(scaling[key]) for key in _SCALING_KEYS[kind]}


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (int(value),)


def _family(raw: Mapping[str, Any]) -> str:
    kind = raw.get("model_type")
    if kind not in FAMILIES:
        allowed = ", ".join(sorted(FAMILIES))
        raise ModelError(f"model family {kind!r} is not supported; supported: {allowed}.")
    return FAMILIES[str(kind)]


def _window(raw: Mapping[str, Any]) -> int | None:
    """The sliding window of all layers, or None; ModelError when only some layers have one."""
    if raw["model_type"] == "llama":
        return None
    width = raw.get("sliding_window", 4096)  # the default of transformers' configs
    if raw["model_type"] == "mistral":
        return None if width is None else int(width)
    layers = int(raw["num_hidden_layers"])
    full = min(int(raw.get("max_window_layers", 28)), layers)
    kinds = set(raw.get("layer_types") or ["full"] * full + ["sliding_attention"] * (layers - full))
    if not raw.get("use_sliding_window", False) or "sliding_attention" not in kinds:
        return None
    if len(kinds) > 1:
        raise ModelError("a sliding window in only some of the layers is not supported.")
    return None if width is None else int(width)


def config_from_dict(raw: Mapping[str, Any]) -> ModelConfig:
    """Read a Hugging Face config.json mapping.

    Raises ModelError for a family, activation or RoPE scaling that is not supported.
    """
    family = _family(raw)
    activation = raw.get("hidden_act", "silu")
    if activation != "silu":
        raise ModelError(f"activation {activation!r} is not supported; supported: silu.")
    theta, scaling = _rope(raw)
    heads = int(raw["num_attention_heads"])
    llama_bias = bool(raw.get("attention_bias", False))
    return ModelConfig(
        family=family,
        vocab_size=int(raw["vocab_size"]),
        hidden_size=int(raw["hidden_size"]),
        intermediate_size=int(raw["intermediate_size"]),
        layers=int(raw["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(raw.get("num_key_value_heads") or heads),
        head_dim=int(raw.get("head_dim") or int(raw["hidden_size"]) // heads),
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_scaling=scaling,
        max_positions=int(raw.get("max_position_embeddings", 2048)),
        tied_head=bool(raw.get("tie_word_embeddings", False)),
        attention_bias=True if family == "qwen2" else llama_bias,
        output_bias=llama_bias if family != "qwen2" else False,
        mlp_bias=bool(raw.get("mlp_bias", False)),
        qk_norm=family == "qwen3",
        eos_ids=_ids(raw.get("eos_token_id")),
        bos_id=raw.get("bos_token_id"),
        sliding_window=_window(raw),
    )


def read_config(directory: Path) -> ModelConfig:
    """The config of a model directory; ModelError when it has none or it is broken."""
    path = directory / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return config_from_dict(raw)
    except FileNotFoundError:
        raise ModelError(f"{directory} has no config.json: it is not a model directory.") from None
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} is not a readable model config: {error!r}.") from error
