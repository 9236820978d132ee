"""Rotary embeddings: angles of positions, and the ways to stretch them for longer contexts.

Plain RoPE (Su et al., 2104.09864); linear scaling; the stretch of low frequencies that Llama 3.1
introduced; YaRN (Peng et al., 2309.00071); and LongRoPE (Ding et al., 2402.13753) with its factors
for short contexts. Its factors for long ones would need keys that are already cached to turn again,
so a model has only its original context here, unless both lists are the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from labkit.base.units import shown
from labkit.errors import ModelError
from labkit.model.values import flag, mapping, number, size, within

_ORIGINAL = "original_max_position_embeddings"
# The parameters of each kind of scaling, with a default where transformers has one. A default of
# None: it follows from the others, or from the model's context.
_PARAMETERS: dict[str, dict[str, float | bool | None]] = {
    "linear": {"factor": math.nan},
    "llama3": {
        "factor": math.nan,
        "low_freq_factor": math.nan,
        "high_freq_factor": math.nan,
        _ORIGINAL: None,
    },
    "yarn": {
        "factor": math.nan,
        _ORIGINAL: None,
        "attention_factor": None,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": True,
    },
}
_LONGROPE = ("short_factor", "long_factor", _ORIGINAL, "attention_factor", "factor")
# What each parameter can be: far more than any model has. No value within makes a number that is
# not finite.
_BOUNDS = {
    "factor": (1e-3, 1e6), _ORIGINAL: (1, 2**31), "attention_factor": (1e-3, 1e3),
    "beta_fast": (1e-3, 1e6), "beta_slow": (1e-3, 1e6), "low_freq_factor": (1e-3, 1e6),
    "high_freq_factor": (1e-3, 1e6),
}  # fmt: skip
_LARGEST = 1e15  # base of RoPE: models have 1e4 to 1e9; below 1 frequencies would grow
KINDS = ("default", *_PARAMETERS, "longrope")


def rope_base(value: Any) -> float:
    """RoPE's base; ModelError where it cannot be one."""
    theta = number(value, "rope_theta")
    if not 1 < theta <= _LARGEST:
        raise ModelError(f"rope_theta must lie above 1, up to {_LARGEST:g}; it is {theta:g}.")
    return theta


def rope_parameters(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The object that says how RoPE is scaled. Where there are two, transformers reads the older
    one alone, even for RoPE's base."""
    return mapping(raw, "rope_scaling") or mapping(raw, "rope_parameters")


def _all_known(kind: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    if unknown := sorted(given.keys() - set(known)):
        raise ModelError(
            f"RoPE scaling {kind!r}: {', '.join(map(repr, unknown))} is not supported; allowed: "
            f"{', '.join(known) or 'none'}."
        )


def rotary_dim(raw: Mapping[str, Any], head_dim: int, partial: bool) -> int:
    """Numbers of a head that RoPE turns, from the first on.

    partial: whether they may be fewer than all. ModelError for a share that is not supported.
    """
    share: Any = rope_parameters(raw).get("partial_rotary_factor", raw.get("partial_rotary_factor"))
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

    positions: the longest context, where the original one is not given. That one may stand beside
    the scaling or within it; where it stands in both, transformers takes the one beside. Raises
    ModelError for a kind of scaling, or a parameter, that is not computed here.
    """
    scaling = rope_parameters(raw)
    theta = rope_base(scaling.pop("rope_theta", raw.get("rope_theta", 10000.0)))
    scaling.pop("partial_rotary_factor", None)  # rotary_dim reads it
    older = scaling.pop("type", "default")
    kind = scaling.pop("rope_type", older)
    if kind == "default":
        _all_known(kind, scaling, ())
        return theta, None
    if not isinstance(kind, str) or kind not in KINDS:
        raise ModelError(f"rope_type {shown(kind)} is not supported; allowed: {', '.join(KINDS)}.")
    if kind != "linear" and raw.get(_ORIGINAL) is not None:
        scaling[_ORIGINAL] = raw[_ORIGINAL]
    if kind == "longrope":
        return theta, _longrope(scaling, head_dim, positions)
    found = {"rope_type": kind} | _values(kind, scaling, positions)
    if kind == "yarn":
        _check_ramp(head_dim, theta, found)
    return theta, found


def _values(kind: str, given: Mapping[str, Any], positions: int) -> dict[str, Any]:
    known = _PARAMETERS[kind]
    _all_known(kind, given, known)
    found: dict[str, Any] = {}
    for name, default in known.items():
        value = given.get(name)
        if isinstance(default, bool):
            found[name] = flag(given, name) if name in given else default
        elif value is not None:
            found[name] = within(value, f"RoPE scaling's {name}", *_BOUNDS[name])
        elif default is not None and math.isnan(default):
            raise ModelError(f"RoPE scaling {kind!r} lacks {name}.")
        else:
            found[name] = default
    if kind == "llama3":
        _in_order(found, "low_freq_factor", "high_freq_factor")
    if kind == "yarn":
        _in_order(found, "beta_slow", "beta_fast")
        if found["attention_factor"] is None:
            found["attention_factor"] = 0.1 * math.log(max(found["factor"], 1.0)) + 1
    if kind != "linear" and found[_ORIGINAL] is None:
        found[_ORIGINAL] = float(positions)
    return found


def _in_order(found: Mapping[str, Any], less: str, more: str) -> None:
    """ModelError where two parameters leave no frequencies between them."""
    if found[less] >= found[more]:
        raise ModelError(
            f"RoPE scaling's {less} must be less than {more}; they are {found[less]:g} and "
            f"{found[more]:g}."
        )


def _check_ramp(head_dim: int, theta: float, scaling: Mapping[str, Any]) -> None:
    first, last = _ramp(head_dim, theta, scaling)
    if first > last:
        raise ModelError(
            f"RoPE scaling 'yarn': beta_fast, beta_slow and {_ORIGINAL} leave no ramp: it would "
            f"begin at pair {first:g} and end at {last:g}."
        )


def _longrope(given: Mapping[str, Any], head_dim: int, positions: int) -> dict[str, Any]:
    """The factors for contexts up to the original one: `context`, which is None where the list for
    longer ones is the same, as in a GGUF file's rope_freqs."""
    _all_known("longrope", given, _LONGROPE)
    short, long = (_factors(given, name, head_dim) for name in ("short_factor", "long_factor"))
    original = size(given, _ORIGINAL, positions)
    attention = given.get("attention_factor")
    if attention is None:
        stretch = given.get("factor")
        stretch = positions / original if stretch is None else number(stretch, "RoPE's factor")
        stretched = stretch > 1 and original > 1
        attention = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretched else 1.0
    return {
        "rope_type": "longrope",
        "factors": short,
        "attention_factor": within(
            attention, "RoPE scaling's attention_factor", *_BOUNDS["attention_factor"]
        ),
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
        turns = scaling[_ORIGINAL] * plain / (2 * math.pi)
        keep = torch.clamp(
            (turns - low) / (high - low), 0, 1
        )  # 1: untouched, 0: stretched by factor
    return keep * plain + (1 - keep) * plain / factor


def _yarn_kept(head_dim: int, theta: float, scaling: Mapping[str, Any]) -> Tensor:
    """YaRN's share of each frequency that stays as it is, (head_dim / 2,): a ramp between the
    dimensions that turn beta_fast and beta_slow times within the original context."""
    if scaling["rope_type"] != "yarn":
        return torch.ones(head_dim // 2, device="cpu")
    first, last = _ramp(head_dim, theta, scaling)
    steps = torch.arange(head_dim // 2, device="cpu").float()
    return 1 - ((steps - first) / (last - first if last > first else 0.001)).clamp(0, 1)


def _ramp(head_dim: int, theta: float, scaling: Mapping[str, Any]) -> tuple[float, float]:
    """The dimensions at which YaRN's ramp begins and ends."""
    context = scaling[_ORIGINAL]

    def dimension(turns: float) -> float:
        return head_dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = dimension(scaling["beta_fast"]), dimension(scaling["beta_slow"])
    if scaling["truncate"]:
        first, last = math.floor(first), math.ceil(last)
    return max(first, 0), min(last, head_dim - 1)


def attention_factor(scaling: Mapping[str, Any] | None) -> float:
    """What cosines and sines are multiplied by; 1 but for YaRN and LongRoPE."""
    return float((scaling or {}).get("attention_factor", 1.0))
