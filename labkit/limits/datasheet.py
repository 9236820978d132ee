"""Peak rates that vendors print for machines, each with its source (datasheet.yaml)."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import resources

import yaml

from labkit.errors import ParameterError
from labkit.limits.hardware import Hardware, Reading


def _printed(value: float) -> Reading:
    return Reading(best=value, median=value, spread=0.0)


@cache
def machines() -> dict[str, Hardware]:
    """Every machine of the table, by its short name."""
    text = resources.files("labkit.limits").joinpath("datasheet.yaml").read_text(encoding="utf-8")
    return {
        short: Hardware(
            name=row["name"],
            device="datasheet",
            threads=0,
            bandwidth_points={1: _printed(float(row["bandwidth"]))},
            matrix={dtype: _printed(float(rate)) for dtype, rate in row["rates"].items()},
            capacity=int(float(row["capacity"])),
            source=row["source"],
        )
        for short, row in yaml.safe_load(text).items()
    }


def machine(name: str) -> Hardware:
    """One machine of the table; ParameterError names the nearest and all others."""
    table = machines()
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ParameterError(f"machine {name!r} is unknown.{hint} Allowed: {', '.join(table)}.")
    return table[name]
