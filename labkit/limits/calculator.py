"""The limit of a model on a machine, without having the model or the machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any

import yaml

from labkit.base.units import scaled
from labkit.limits.cost import ELEMENT_BYTES, Cost, decode_cost, prefill_cost, weight_bytes
from labkit.limits.hardware import Hardware
from labkit.limits.roofline import Limit, limit
from labkit.model.config import ModelConfig
from labkit.model.experts import Experts


@cache
def shapes() -> dict[str, ModelConfig]:
    """Well-known models by short name (shapes.yaml, with sources)."""
    text = resources.files("labkit.limits").joinpath("shapes.yaml").read_text(encoding="utf-8")
    table: dict[str, dict[str, Any]] = yaml.safe_load(text)
    fixed = {"rms_norm_eps": 1e-5, "rope_theta": 1e4}  # neither changes bytes or FLOPs
    return {name: _shape(row | fixed) for name, row in table.items()}


def _shape(row: dict[str, Any]) -> ModelConfig:
    """One row as a config. all_seen_every: every so many layers, one has no window. experts: every
    layer has a mixture of them."""
    row.pop("source")
    layers = range(row["layers"])
    if every := row.pop("all_seen_every", None):
        row["windowed"] = tuple((n + 1) % every != 0 for n in layers)
    if experts := row.pop("experts", None):
        row["experts"] = Experts(**experts, layers=tuple(layers))
    return ModelConfig(**row)


def needed_bytes(config: ModelConfig, dtype: str, context: int, batch: int) -> float:
    """Bytes of memory for the weights and for the KV cache of `batch` sequences."""
    kv = config.kv_bytes_per_token(max(ELEMENT_BYTES[dtype], 1.0)) * context * batch
    return weight_bytes(config, dtype) + kv


def cache_note(cost: Cost, hardware: Hardware) -> str:
    """Why memory does not bound a pass that a last-level cache can hold; empty where it does."""
    if not hardware.in_cache(cost.read_bytes):
        return ""
    return (
        f"its weights and KV cache ({scaled(cost.read_bytes, 'B')}) fit the "
        f"{scaled(hardware.cache, 'B')} last-level cache, whose bandwidth the vendor does not "
        "print: no limit from memory"
    )


def _told(found: Limit, tokens: int) -> str:
    if not found.seconds:
        return "no limit known"
    return f"{found.rate(tokens):,.0f} tok/s ({found.bound})"


def what_if(
    hardware: Hardware,
    config: ModelConfig,
    dtype: str = "bfloat16",
    context: int = 1024,
    batch: int = 1,
) -> dict[str, object]:
    """One row of the calculator: the limits of decode and prefill, or that it does not fit.

    note: what a reader must know of the decode limit.
    """
    needed = needed_bytes(config, dtype, context, batch)
    if hardware.capacity and needed > hardware.capacity:
        return {
            "holds": scaled(needed, "B"), "decode": "does not fit", "prefill": "", "note": ""
        }  # fmt: skip
    step = decode_cost(config, context, batch, dtype)
    prompt = prefill_cost(config, context, batch, dtype)
    return {
        "holds": scaled(needed, "B"),
        "decode": _told(limit(step, hardware), batch),
        "prefill": _told(limit(prompt, hardware), context * batch),
        "note": cache_note(step, hardware),
    }


def calculator(
    machines: Mapping[str, Hardware],
    models: Iterable[str],
    dtype: str = "bfloat16",
    context: int = 1024,
) -> list[dict[str, object]]:
    """Decode limits of one sequence in tokens/s: a row for each machine, a column a model.

    A star marks a limit of computing alone, because the last-level cache can hold what is read.
    """
    rows: list[dict[str, object]] = []
    for name, hardware in machines.items():
        row: dict[str, object] = {"machine": name}
        for model in models:
            found = what_if(hardware, shapes()[model], dtype, context)
            row[model] = str(found["decode"]).split(" tok/s")[0] + (" *" if found["note"] else "")
        rows.append(row)
    return rows
