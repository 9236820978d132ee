"""Values of a config.json, each checked: a number is a number, a size is one that can be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from labkit.base.units import shown
from labkit.errors import ModelError

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
    "original_max_position_embeddings": 2**31,
    "sliding_window": 2**31,
    "sliding_window_pattern": 2**12,
    "no_rope_layer_interval": 2**12,
    "query_pre_attn_scalar": 2**18,
    "num_experts": 2**16,
    "num_local_experts": 2**16,
    "num_experts_per_tok": 2**16,
    "moe_intermediate_size": 2**20,
    "decoder_sparse_step": 2**12,
}
_LARGEST_MULTIPLIER = 1e6  # of embeddings, scores, residuals, logits; models have 0.01 to 100


def number(value: Any, name: str) -> float:
    """A finite number; ModelError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ModelError(f"{name} must be a number; it is {value!r}.")
    return float(value)


def size(raw: Mapping[str, Any], name: str, default: int | None = None) -> int:
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


def flag(raw: Mapping[str, Any], name: str) -> bool:
    """True or false; false where it is missing."""
    value = raw.get(name, False)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise ModelError(f"{name} must be true or false; it is {value!r}.")
    return value


def multiplier(raw: Mapping[str, Any], name: str) -> float:
    """A number above 0 that something is multiplied by; 1 where it is missing."""
    value = number(raw.get(name, 1.0), name)
    if not 0 < value <= _LARGEST_MULTIPLIER:
        raise ModelError(f"{name} must lie above 0, up to {_LARGEST_MULTIPLIER:g}; it is {value}.")
    return value


def within(value: Any, name: str, least: float, most: float) -> float:
    """A number from `least` to `most`; ModelError for another one."""
    found = number(value, name)
    if not least <= found <= most:
        raise ModelError(f"{name} must lie between {least:g} and {most:g}; it is {found:g}.")
    return found


def ids(value: Any, name: str) -> tuple[int, ...]:
    """Token ids: none, one, or a list."""
    some = [] if value is None else value if isinstance(value, list) else [value]
    for one in some:
        if isinstance(one, bool) or not isinstance(one, int) or one < 0:
            raise ModelError(f"{name} must be a token's number or a list of them; it is {value!r}.")
    return tuple(some)


def mapping(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A copy of an object; empty where it is missing."""
    value = raw.get(name)
    if value is not None and not isinstance(value, dict):
        raise ModelError(f"{name} must be an object; it is {shown(value)}.")
    return dict(value or {})


def must_be(raw: Mapping[str, Any], name: str, *allowed: Any) -> None:
    """ModelError where something has a value that is not computed here; missing is allowed."""
    value = raw.get(name)
    if value is not None and value not in allowed:
        names = ", ".join(repr(one) for one in allowed) or "null"
        raise ModelError(f"{name} {shown(value)} is not supported; allowed: {names}.")
