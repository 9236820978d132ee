"""Rotary embeddings: angles of positions, and the ways to stretch them for longer contexts.

Plain RoPE (Su et al., 2104.09864); linear scaling; the stretch of low frequencies that Llama 3.1
introduced; YaRN (Peng et al., 2309.00071); and LongRoPE (Ding et al., 2402.13753), where its lists
for short and long contexts are the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from labkit.errors import ModelError

# The parameters of each kind of scaling, with a default where transformers has one. A default of
# None: it follows from the others, or from the model's context.
_PARAMETERS: dict[str, dict[str, float | bool | None]] = {
    "linear": {"factor": math.nan},
    "llama3": {
        "factor": math.nan,
        "low_freq_factor": math.nan,
        "high_freq_factor": math.nan,
        "original_max_position_embeddings": math.nan,
    },
    "yarn": {
        "factor": math.nan,
        "original_max_position_embeddings": None,
        "attention_factor": None,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": True,
    },
}
_LARGEST = 1e15  # base of RoPE: models have 1e4 to 1e9; below 1 frequencies would grow
KINDS = ("default", *_PARAMETERS, "longrope")


def read_rope(
    raw: Mapping[str, Any], head_dim: int, positions: int
) -> tuple[float, Mapping[str, Any] | None]:
    """RoPE's base and its scaling, from a config.json; transformers 5 keeps both in
    `rope_parameters`.

    positions: the longest context, where YaRN's own is not given. Raises ModelError for a kind of
    scaling, or a parameter, that is not computed here.
    """
    parameters = _mapping(raw, "rope_parameters")
    theta = number(parameters.pop("rope_theta", raw.get("rope_theta", 10000.0)), "rope_theta")
    if not 1 < theta <= _LARGEST:
        raise ModelError(f"rope_theta must lie above 1, up to {_LARGEST:g}; it is {theta:g}.")
    partial = parameters.pop("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0))
    if partial != 1.0:
        raise ModelError(f"partial_rotary_factor {partial!r} is not supported; allowed: 1.0.")
    scaling = _mapping(raw, "rope_scaling") or parameters
    kind = scaling.pop("rope_type", scaling.pop("type", "default"))
    scaling.pop("type", None)
    scaling.pop("rope_theta", None)
    if kind == "default":
        return theta, None
    if kind == "longrope":
        return theta, _longrope(scaling, head_dim)
    if kind not in _PARAMETERS:
        raise ModelError(f"RoPE scaling {kind!r} is not supported; allowed: {', '.join(KINDS)}.")
    return theta, {"rope_type": kind} | _values(kind, scaling, positions)


def _mapping(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = raw.get(name) or {}
    if not isinstance(value, dict):
        raise ModelError(f"{name} must be an object; it is {value!r}.")
    return dict(value)


def number(value: Any, name: str) -> float:
    """A finite number; ModelError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ModelError(f"{name} must be a number; it is {value!r}.")
    return float(value)


def _values(kind: str, given: Mapping[str, Any], positions: int) -> dict[str, Any]:
    known = _PARAMETERS[kind]
    if unknown := given.keys() - known.keys():
        raise ModelError(
            f"RoPE scaling {kind!r}: {', '.join(sorted(unknown))} is not supported; allowed: "
            f"{', '.join(known)}."
        )
    found: dict[str, Any] = {}
    for name, default in known.items():
        value = given.get(name)
        if isinstance(default, bool):
            found[name] = default if value is None else bool(value)
        elif value is not None:
            found[name] = number(value, f"RoPE scaling's {name}")
        elif default is not None and math.isnan(default):
            raise ModelError(f"RoPE scaling {kind!r} lacks {name}.")
        else:
            found[name] = default
    if found["factor"] < 1:
        raise ModelError(f"RoPE scaling's factor must be at least 1; it is {found['factor']:g}.")
    if kind == "yarn":
        found["original_max_position_embeddings"] = found[
            "original_max_position_embeddings"
        ] or float(positions)
        if found["attention_factor"] is None:
            found["attention_factor"] = 0.1 * math.log(found["factor"]) + 1
    return found


def _longrope(given: Mapping[str, Any], head_dim: int) -> dict[str, Any]:
    """One list of factors for every context: what a GGUF file's rope_freqs are."""
    short, long = given.get("short_factor"), given.get("long_factor")
    if not isinstance(short, list) or short != long or len(short) != head_dim // 2:
        raise ModelError(
            "RoPE scaling 'longrope' is supported where short_factor and long_factor are the same "
            f"list of {head_dim // 2} numbers, one for each pair of dimensions."
        )
    factors = tuple(number(one, "short_factor") for one in short)
    if min(factors) <= 0:
        raise ModelError("RoPE scaling's short_factor must hold numbers above 0.")
    attention = number(given.get("attention_factor", math.nan), "RoPE scaling's attention_factor")
    return {"rope_type": "longrope", "factors": factors, "attention_factor": attention}


def frequencies(head_dim: int, theta: float, scaling: Mapping[str, Any] | None) -> Tensor:
    """Angle per position of each pair of dimensions, (head_dim / 2,) float32."""
    steps = torch.arange(0, head_dim, 2, dtype=torch.int64, device="cpu").float()
    plain: Tensor = 1.0 / (theta ** (steps / head_dim))
    if scaling is None:
        return plain
    if scaling["rope_type"] == "longrope":
        return plain / torch.tensor(scaling["factors"], device="cpu")
    factor = float(scaling["factor"])
    if scaling["rope_type"] == "linear":
        return plain / factor
    keep = _yarn_kept(head_dim, theta, scaling)
    if scaling["rope_type"] == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = scaling["original_max_position_embeddings"] * plain / (2 * math.pi)
        keep = torch.clamp(
            (turns - low) / (high - low), 0, 1
        )  # 1: untouched, 0: stretched by factor
    return keep * plain + (1 - keep) * plain / factor


def _yarn_kept(head_dim: int, theta: float, scaling: Mapping[str, Any]) -> Tensor:
    """YaRN's share of each frequency that stays as it is, (head_dim / 2,): a ramp between the
    dimensions that turn beta_fast and beta_slow times within the original context."""
    if scaling["rope_type"] != "yarn":
        return torch.ones(head_dim // 2, device="cpu")
    context = scaling["original_max_position_embeddings"]

    def dimension(turns: float) -> float:
        return head_dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = dimension(scaling["beta_fast"]), dimension(scaling["beta_slow"])
    if scaling["truncate"]:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    steps = torch.arange(head_dim // 2, device="cpu").float()
    return 1 - ((steps - first) / (last - first if last > first else 0.001)).clamp(0, 1)


def attention_factor(scaling: Mapping[str, Any] | None) -> float:
    """What cosines and sines are multiplied by; 1 but for YaRN and LongRoPE."""
    return float((scaling or {}).get("attention_factor", 1.0))
