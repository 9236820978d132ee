"""The calculator as one HTML file that works offline: a machine, a model, and what the limits say.

The page computes in the browser: limits.js is the arithmetic of labkit.limits, calculator_told.js
its words, calculator.js the fields. Machines and shapes are data in it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from labkit.base.device import resolve_device
from labkit.base.places import try_file, write_result
from labkit.base.units import shown
from labkit.errors import ParameterError
from labkit.limits import datasheet
from labkit.limits.calculator import shapes
from labkit.limits.cost import ELEMENT_BYTES
from labkit.limits.hardware import Hardware
from labkit.limits.measure import kept_hardware
from labkit.limits.question import ALLOWED, Question
from labkit.limits.report import shape
from labkit.model.config import ModelConfig
from labkit.report.pages.html import templates

_NUMBERS = (
    "vocab_size", "hidden_size", "intermediate_size", "layers", "heads", "kv_heads", "head_dim",
    "max_positions",
)  # fmt: skip
_FLAGS = (
    "tied_head", "attention_bias", "output_bias", "mlp_bias", "qk_norm", "qk_norm_whole",
    "pre_norms", "post_norms",
)  # fmt: skip
_EXPERTS = ("count", "used", "size")
_SCRIPTS = ("limits.js", "calculator_told.js", "calculator.js")
# The least and the most of each number of a shape that a reader types in; experts 0: no mixture.
OWN_ALLOWED: dict[str, tuple[int, int]] = {
    "layers": (1, 1000), "hidden_size": (1, 1_000_000), "intermediate_size": (1, 1_000_000),
    "heads": (1, 10_000), "kv_heads": (1, 10_000), "head_dim": (2, 10_000),
    "vocab_size": (1, 10_000_000), "max_positions": (1, 10_000_000),
    "experts": (0, 10_000), "experts_used": (1, 10_000), "expert_size": (1, 1_000_000),
}  # fmt: skip
_OWN = "llama-3.1-8b"  # whose numbers stand in the fields before a reader types others


def machine_data(hardware: Hardware, cache: str = "") -> dict[str, Any]:
    """What limits.js asks of a machine. cache: who says how large its last-level cache is."""
    measured = hardware.source == "measured"
    when = f"measured {hardware.measured_at}, in spells about as long as a turn of a comparison"
    return {
        "name": hardware.name,
        "measured": measured,
        "source": when if measured else hardware.source,
        "reads": [[size, hardware.bandwidth(size)] for size in sorted(hardware.bandwidth_points)],
        "rates": {dtype: reading.best for dtype, reading in hardware.matrix.items()},
        "capacity": hardware.capacity,
        "cache": hardware.cache,
        "cache_source": cache,
    }


def shape_data(config: ModelConfig) -> dict[str, Any]:
    """What limits.js asks of a shape. windows: pairs of a window and its number of layers."""
    experts = config.experts
    return {
        **{name: getattr(config, name) for name in _NUMBERS},
        **{name: int(getattr(config, name)) for name in _FLAGS},
        "windows": [list(one) for one in _windows(config).items()],
        "experts": experts
        and {name: getattr(experts, name) for name in _EXPERTS} | {"layers": len(experts.layers)},
    }


def _windows(config: ModelConfig) -> Counter[int | None]:
    return Counter(map(config.window_of, range(config.layers)))


def _machines(here: Hardware | None) -> dict[str, dict[str, Any]]:
    """This machine by the time of its measurement, so that a link does not mean another machine;
    then those of the table."""
    found = {f"measured-{here.measured_at}": machine_data(here)} if here else {}
    table = datasheet.machines().items()
    return found | {key: machine_data(one, datasheet.cache_told(key)) for key, one in table}


def _own(config: ModelConfig) -> dict[str, Any]:
    """The numbers of a shape that a reader can type in."""
    told = shape_data(config)
    return {name: told[name] for name in OWN_ALLOWED if name in told} | {
        "experts": 0, "experts_used": 8, "expert_size": 768, "tied_head": told["tied_head"],
    }  # fmt: skip


def page_data(
    here: Hardware | None, machine: str | None, shape_name: str, asked: Question
) -> dict[str, Any]:
    """All that the page computes with, and the question that it opens with.

    here: this machine as measured, where it is. machine: of the table; None: this machine, or the
    first of the table where it is not measured.
    """
    machines = _machines(here)
    return {
        "machines": machines,
        "shapes": {name: shape_data(one) for name, one in shapes().items()},
        "elements": ELEMENT_BYTES,
        "allowed": ALLOWED | OWN_ALLOWED,
        "asked": {"machine": machine or next(iter(machines)), "model": shape_name, **asdict(asked)},
        "own": _own(shape(_OWN)),
    }


def page(told: dict[str, Any]) -> str:
    """The page of such data. It asks for nothing, and its policy allows this one script only."""
    made = templates()
    script = "\n".join(made.get_template(name).render() for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return made.get_template("calculator.html.j2").render(
        title="Calculator: how fast could a model run?", script=script,
        script_hash=f"sha256-{digest}", told_data=told,
        data=json.dumps(told, allow_nan=False).replace("<", "\\u003c"),
    )  # fmt: skip


def write_page(
    target: Path, shape_name: str, machine: str | None, device: str, asked: Question
) -> str:
    """Write the page, which opens with this question; returns a sentence for the terminal.

    machine: of the table; None: this machine, or the first of the table where it is not measured.
    Raises ParameterError for a name that does not end in .html, so that no other file is lost, and
    for a question that cannot be asked; UnwritableError where nothing can be written there.
    """
    if target.suffix != ".html":
        raise ParameterError(
            f"{shown(str(target))} is no name for the page: give one that ends in .html."
        )
    asked.check(shape(shape_name))
    if machine is not None:
        datasheet.machine(machine)
    here = kept_hardware(resolve_device(device))
    try_file(target, "the page", "give another place to --html")
    data = page_data(here, machine, shape_name, asked)
    write_result(target, page(data), "the page", "make room there")
    count = f"{len(datasheet.machines())} machines by their datasheets"
    told = f"this machine as measured, and {count}" if here else (
        f"{count}. This machine is not on it: `labkit limit` measures it, and then this command "
        "adds it"
    )  # fmt: skip
    return f"{target}: {told}. Open it in a browser; it needs no network."
