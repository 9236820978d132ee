"""What the user asked of `labkit reports`, checked before anything runs."""

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

from labkit.base.paths import project_root
from labkit.errors import LabkitError, ParameterError
from labkit.report.runs.notebooks import (
    Notebook,
    apply_overrides,
    discover,
    read_overrides,
    read_profile,
    select,
)


@dataclass(frozen=True)
class ReportRequest:
    """The options of `labkit reports`.

    only: numbers or names of notebooks. params: a YAML file of parameters. name: of the run's
    folder in `outputs`. force: run again what is already done.
    """

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


# Options of the whole run, which each notebook gets as parameters.
_OF_THE_RUN = ("model", "device", "dtype")


def _params(path: Path) -> dict[str, Any]:
    """The user's file of parameters; ParameterError where it sets an option of the whole run."""
    overrides = read_overrides(path)
    inner = [value for value in overrides.values() if isinstance(value, dict)]
    for name in _OF_THE_RUN:
        if any(name in found for found in (overrides, *inner)):
            raise ParameterError(
                f"{path}: {name} belongs to the whole run. Give {name.upper()}=... instead."
            )
    return overrides


def _model(name: str) -> str:
    """The model as a notebook can open it: notebooks run in their own folder."""
    path = Path(name).expanduser()
    return str(path.resolve()) if name and path.exists() else name


def plan(request: ReportRequest) -> tuple[list[Notebook], dict[str, dict[str, Any]]]:
    """The chosen notebooks, and by name the parameters that each gets.

    Raises ParameterError for anything in the request that does not fit; nothing is run.
    """
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
        given = (_model(request.model), request.device, request.dtype)
        own = dict(zip(_OF_THE_RUN, given, strict=True))
        values[notebook.name] = {k: v for k, v in own.items() if k in notebook.parameters} | values[
            notebook.name
        ]
    return chosen, values


def identify(request: ReportRequest) -> dict[str, Any]:
    """What identifies model and machine, from a process of its own (see `identity`).

    Raises LabkitError for a model, device or dtype that does not exist.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "identity.json"
        command = [
            sys.executable,
            "-m",
            "labkit.report.runs.identity",
            request.model,
            request.device,
        ]
        done = subprocess.run(
            [*command, request.dtype, str(target)], stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise LabkitError(done.stderr.strip() or "the model could not be identified.")
        return dict(json.loads(target.read_text(encoding="utf-8")))


def default_name(request: ReportRequest, identity: Mapping[str, Any]) -> str:
    """The name of a run: today, model, device, dtype, profile. One request a day is one run."""
    parts = [f"{datetime.now():%Y-%m-%d}", identity["model"], identity["device"].replace(":", "")]
    if request.dtype != "float32":
        parts.append(request.dtype)
    return "-".join([*parts, request.profile])


def folder_of(request: ReportRequest, identity: Mapping[str, Any]) -> Path:
    """The folder of the run; ParameterError for a name that no folder can have."""
    name = request.name or default_name(request, identity)
    if name in (".", "..") or any(mark in name for mark in "/\\\0") or name.startswith("."):
        raise ParameterError(f"RUN={name!r} is no folder name: use letters, digits, - and _.")
    return request.outputs / name
