"""Rotary embeddings: angles of positions, and the ways to stretch them for longer contexts.

Plain RoPE (Su et al., 2104.09864); linear scaling; the stretch of low frequencies that Llama 3.1
introduced; YaRN (Peng et al., 2309.00071); and LongRoPE (Ding et al., 2402.13753) with its factors
for short contexts. Its factors for long ones would need keys that are already cached to turn again,
so a model has only its original context here, unless both lists are the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from labkit.errors import ModelError
from labkit.model.values import mapping, number, size

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


def rope_base(value: Any) -> float:
    """RoPE's base; ModelError where it cannot be one."""
    theta = number(value, "rope_theta")
    if not 1 < theta <= _LARGEST:
        raise ModelError(f"rope_theta must lie above 1, up to {_LARGEST:g}; it is {theta:g}.")
    return theta


def rotary_dim(raw: Mapping[str, Any], head_dim: int, partial: bool) -> int:
    """Numbers of a head that RoPE turns, from the first on.

    partial: whether they may be fewer than all. ModelError for a share that is not supported.
    """
    share: Any = raw.get("partial_rotary_factor")
    for name in ("rope_parameters", "rope_scaling"):
        share = mapping(raw, name).get("partial_rotary_factor", share)
    share = 1.0 if share is None else number(share, "partial_rotary_factor")
    turned = int(head_dim * share)
    if share != 1 and not partial:
        raise ModelError(f"partial_rotary_factor {share!r} is not supported; allowed: 1.0.")
    if not 2 <= turned <= head_dim or turned % 2:
        raise ModelError(
            f"partial_rotary_factor {share!r} turns {turned} of a head's {head_dim} numbers; "
            f"allowed are even numbers up to {head_dim}."
        )
    return turned


def read_rope(
    raw: Mapping[str, Any], head_dim: int, positions: int
) -> tuple[float, Mapping[str, Any] | None]:
    """RoPE's base and its scaling, from a config.json; transformers 5 keeps both in
    `rope_parameters`.

    positions: the longest context, where YaRN's own is not given. Raises ModelError for a kind of
    scaling, or a parameter, that is not computed here.
    """
    parameters = mapping(raw, "rope_parameters")
    theta = rope_base(parameters.pop("rope_theta", raw.get("rope_theta", 10000.0)))
    scaling = mapping(raw, "rope_scaling") or parameters
    scaling.pop("partial_rotary_factor", None)  # rotary_dim reads it
    kind = scaling.pop("rope_type", scaling.pop("type", "default"))
    scaling.pop("type", None)
    scaling.pop("rope_theta", None)
    if kind == "default":
        return theta, None
    if kind == "longrope":
        return theta, _longrope(scaling, head_dim, positions)
    if not isinstance(kind, str) or kind not in _PARAMETERS:
        raise ModelError(f"RoPE scaling {kind!r} is not supported; allowed: {', '.join(KINDS)}.")
    return theta, {"rope_type": kind} | _values(kind, scaling, positions)


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


def _longrope(given: Mapping[str, Any], head_dim: int, positions: int) -> dict[str, Any]:
    """The factors for contexts up to the original one: `context`, which is None where the list for
    longer ones is the same, as in a GGUF file's rope_freqs."""
    short, long = (_factors(given, name, head_dim) for name in ("short_factor", "long_factor"))
    original = size(given, "original_max_position_embeddings", positions)
    attention = given.get("attention_factor")
    if attention is None:
        stretch = given.get("factor")
        stretch = positions / original if stretch is None else number(stretch, "RoPE's factor")
        stretched = stretch > 1 and original > 1
        attention = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretched else 1.0
    return {
        "rope_type": "longrope",
        "factors": short,
        "attention_factor": number(attention, "RoPE scaling's attention_factor"),
        "context": None if short == long else original,
    }


def _factors(given: Mapping[str, Any], name: str, head_dim: int) -> tuple[float, ...]:
    """One of LongRoPE's lists, checked."""
    found = given.get(name)
    if not isinstance(found, list) or len(found) != head_dim // 2:
        raise ModelError(
            f"RoPE scaling 'longrope': {name} must be a list of {head_dim // 2} numbers, one for "
            "each pair of dimensions."
        )
    factors = tuple(number(one, name) for one in found)
    if min(factors) <= 0:
        raise ModelError(f"RoPE scaling's {name} must hold numbers above 0.")
    return factors


def check_context(scaling: Mapping[str, Any] | None, end: int) -> None:
    """ModelError where positions up to `end` need angles that this scaling does not have."""
    context = (scaling or {}).get("context")
    if context is not None and end > context:
        raise ModelError(
            f"{end:,} positions are more than the {context:,} for which LongRoPE is supported: its "
            "factors for longer contexts are not. Make the prompt shorter, or the cache smaller."
        )


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
