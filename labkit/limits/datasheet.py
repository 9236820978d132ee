"""Peak rates that vendors print for machines, each with its source (datasheet.yaml)."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import yaml

from labkit.base.nearest import hint, nearest
from labkit.base.units import scaled
from labkit.errors import ParameterError
from labkit.limits.hardware import Hardware, Reading


def _printed(value: float) -> Reading:
    return Reading(best=value, median=value, spread=0.0, slowest=value)


def _bandwidth(row: dict[str, Any]) -> dict[int, Reading]:
    """The printed bandwidth of the memory; below it that of the last-level cache, if printed."""
    memory = _printed(float(row["bandwidth"]))
    if "cache_bandwidth" not in row:
        return {1: memory}
    size = int(float(row["cache"]))
    return {size: _printed(float(row["cache_bandwidth"])), size + 1: memory}


@cache
def _table() -> dict[str, dict[str, Any]]:
    text = resources.files("labkit.limits").joinpath("datasheet.yaml").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return found


@cache
def machines() -> dict[str, Hardware]:
    """Every machine of the table, by its short name."""
    return {
        short: Hardware(
            name=row["name"],
            device="datasheet",
            threads=0,
            bandwidth_points=_bandwidth(row),
            matrix={dtype: _printed(float(rate)) for dtype, rate in row["rates"].items()},
            capacity=int(float(row["capacity"])),
            cache=int(float(row.get("cache", 0))),
            source=row["source"],
        )
        for short, row in _table().items()
    }


def cache_told(name: str) -> str:
    """The last-level cache of a machine of the table and who says so; empty where it has none."""
    row = _table()[name]
    if "cache" not in row:
        return ""
    return f"{scaled(float(row['cache']), 'B')}: {row['cache_source']}"


def machine(name: str) -> Hardware:
    """One machine of the table; ParameterError names the nearest and all others."""
    table = machines()
    if name not in table:
        meant = hint(nearest(name, table))
        raise ParameterError(f"machine {name!r} is unknown.{meant} Allowed: {', '.join(table)}.")
    return table[name]


def known_device(name: str) -> Hardware | None:
    """The machine of the table whose driver gives this very name; None for an unknown one."""
    for short, row in _table().items():
        if name in row.get("drivers", ()):
            return machines()[short]
    return None
