"""What a run was asked to do, checked before anything runs."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError, ParameterError
from labkit.paths import project_root
from labkit.report.notebooks import (
    Notebook,
    apply_overrides,
    discover,
    read_overrides,
    read_profile,
    select,
)


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    profile: str = "full"
    model: str = ""
    device: str = "auto"
    dtype: str = "float32"
    only: str = ""
    params: Path | None = None
    name: str = ""
    force: bool = False
    outputs: Path = field(default_factory=lambda: project_root() / "outputs")
    notebooks: Path = field(default_factory=lambda: project_root() / "notebooks")


# What a run as a whole is asked for; a notebook is handed them as parameters.
_OF_THE_RUN = ("model", "device", "dtype")


def _params(path: Path) -> dict[str, Any]:
    """The user's file; ParameterError where it sets for a notebook what belongs to the run."""
    overrides = read_overrides(path)
    inner = [value for value in overrides.values() if isinstance(value, dict)]
    for name in _OF_THE_RUN:
        if any(name in found for found in (overrides, *inner)):
            raise ParameterError(
                f"{path}: {name} belongs to the whole run: give {name.upper()}=... instead."
            )
    return overrides


def _model(name: str) -> str:
    """The model as a notebook may open it: a local path made absolute, for it runs elsewhere."""
    path = Path(name).expanduser()
    return str(path.resolve()) if name and path.exists() else name


def plan(request: Request) -> tuple[list[Notebook], dict[str, dict[str, Any]]]:
    """The chosen notebooks and the values each will get; everything checked, nothing run."""
    every = discover(request.notebooks)
    chosen = select(every, request.only)
    profile = read_profile(request.notebooks, request.profile)
    layers = [(profile, f"profile {request.profile}")]
    if request.params:
        layers.append((_params(request.params), str(request.params)))
    values: dict[str, dict[str, Any]] = {notebook.name: {} for notebook in chosen}
    for overrides, where in layers:
        for name, found in apply_overrides(chosen, every, overrides, where).items():
            values[name] |= found
    for notebook in chosen:
        asked = (_model(request.model), request.device, request.dtype)
        own = dict(zip(_OF_THE_RUN, asked, strict=True))
        values[notebook.name] = {k: v for k, v in own.items() if k in notebook.parameters} | values[
            notebook.name
        ]
    return chosen, values


def check(request: Request) -> dict[str, Any]:
    """Identity of model and machine, from a process that may import torch; raises LabkitError."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "identity.json"
        command = [sys.executable, "-m", "labkit.report.check", request.model, request.device]
        done = subprocess.run(
            [*command, request.dtype, str(target)], stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise LabkitError(done.stderr.strip() or "the model could not be checked.")
        return dict(json.loads(target.read_text(encoding="utf-8")))


def default_name(request: Request, identity: Mapping[str, Any]) -> str:
    """Today, the model, the device and the profile: the same request on one day is one run."""
    parts = [f"{datetime.now():%Y-%m-%d}", identity["model"], identity["device"]]
    if request.dtype != "float32":
        parts.append(request.dtype)
    return "-".join([*parts, request.profile])


def run_folder(request: Request, identity: Mapping[str, Any]) -> Path:
    """Where the run lives; ParameterError for a name that is no folder name."""
    name = request.name or default_name(request, identity)
    if name in (".", "..") or any(mark in name for mark in "/\\\0") or name.startswith("."):
        raise ParameterError(f"RUN={name!r} is no folder name: use letters, digits, - and _.")
    return request.outputs / name
