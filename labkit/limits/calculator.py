"""The limit of a model on a machine, without having the model or the machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources

import yaml

from labkit.base.units import scaled
from labkit.limits.cost import ELEMENT_BYTES, decode_cost, prefill_cost, weight_bytes
from labkit.limits.hardware import Hardware
from labkit.limits.roofline import limit
from labkit.model.config import ModelConfig


@cache
def shapes() -> dict[str, ModelConfig]:
    """Well-known models by short name (shapes.yaml, with sources)."""
    text = resources.files("labkit.limits").joinpath("shapes.yaml").read_text(encoding="utf-8")
    table: dict[str, dict[str, object]] = yaml.safe_load(text)
    fixed = {"rms_norm_eps": 1e-5, "rope_theta": 1e4}  # neither changes bytes or FLOPs
    return {
        name: ModelConfig(**{k: v for k, v in row.items() if k != "source"} | fixed)  # type: ignore[arg-type]
        for name, row in table.items()
    }


def needed_bytes(config: ModelConfig, dtype: str, context: int, batch: int) -> float:
    """Bytes of memory for the weights and for the KV cache of `batch` sequences."""
    kv = config.kv_bytes_per_token(max(ELEMENT_BYTES[dtype], 1.0)) * context * batch
    return weight_bytes(config, dtype) + kv


def what_if(
    hardware: Hardware,
    config: ModelConfig,
    dtype: str = "bfloat16",
    context: int = 1024,
    batch: int = 1,
) -> dict[str, object]:
    """One row of the calculator: the limits of decode and prefill, or that it does not fit."""
    needed = needed_bytes(config, dtype, context, batch)
    if hardware.capacity and needed > hardware.capacity:
        return {"holds": scaled(needed, "B"), "decode": "does not fit", "prefill": ""}
    step = limit(decode_cost(config, context, batch, dtype), hardware)
    prompt = limit(prefill_cost(config, context, batch, dtype), hardware)
    return {
        "holds": scaled(needed, "B"),
        "decode": f"{step.rate(batch):,.0f} tok/s ({step.bound})",
        "prefill": f"{prompt.rate(context * batch):,.0f} tok/s ({prompt.bound})",
    }


def calculator(
    machines: Mapping[str, Hardware],
    models: Iterable[str],
    dtype: str = "bfloat16",
    context: int = 1024,
) -> list[dict[str, object]]:
    """Decode limits of one sequence in tokens/s: a row for each machine, a column a model."""
    rows: list[dict[str, object]] = []
    for name, hardware in machines.items():
        row: dict[str, object] = {"machine": name}
        for model in models:
            found = what_if(hardware, shapes()[model], dtype, context)["decode"]
            row[model] = str(found).split(" tok/s")[0]
        rows.append(row)
    return rows
