"""What the user asked of `labkit reports`, checked before anything runs."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from labkit.base.paths import project_root, read_json
from labkit.base.units import shown
from labkit.errors import LabkitError, ParameterError, one_line
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
# Names in `outputs` that are no runs.
_TAKEN = ("index.html",)
_LONGEST, _SHORT = 200, 60  # bytes of a run's name (a file system takes 255); of a model's in it

# What a notebook's parameters may be: raises ParameterError, in one line, where they are not. It is
# given the notebook's name, all its values, and what identifies the model (None before it is
# known). What studies allow, studies know; they are above this room, so the command hands it in.
Check = Callable[[str, Mapping[str, Any], Mapping[str, Any] | None], None]


def unchecked(name: str, values: Mapping[str, Any], identity: Mapping[str, Any] | None) -> None:
    """A check for notebooks of which nothing is known."""


class Plan(NamedTuple):
    """What is going to be run: notebooks, the values that each gets by its name, and the user's own
    file of parameters as it was read."""

    chosen: list[Notebook]
    values: dict[str, dict[str, Any]]
    parameters: dict[str, Any]

    def check(self, check: Check, identity: Mapping[str, Any] | None = None) -> None:
        """Check what every chosen notebook gets, the defaults included."""
        for notebook in self.chosen:
            check(notebook.name, notebook.defaults() | self.values[notebook.name], identity)


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
    try:
        path = Path(name).expanduser()
        return str(path.resolve()) if name and path.exists() else name
    except (OSError, RuntimeError):  # too long, or of no user: refused where the model is looked up
        return name


def plan(request: ReportRequest, check: Check = unchecked) -> Plan:
    """The chosen notebooks, and by name the parameters that each gets.

    Raises ParameterError for anything in the request that does not fit; nothing is run.
    """
    every = discover(request.notebooks)
    chosen = select(every, request.only)
    profile = read_profile(request.notebooks, request.profile)
    own = _params(request.params) if request.params else {}
    given = (_model(request.model), request.device, request.dtype)
    options = dict(zip(_OF_THE_RUN, given, strict=True))
    values = {n.name: {k: v for k, v in options.items() if k in n.parameters} for n in every}
    for overrides, where in (
        (profile, f"profile {request.profile}"),
        (own, one_line(str(request.params))),
    ):
        for name, found in apply_overrides(every, every, overrides, where).items():
            values[name] |= found
    Plan(every, values, own).check(check)  # a value is wrong for whichever notebook it is meant
    return Plan(chosen, {notebook.name: values[notebook.name] for notebook in chosen}, own)


def identify(request: ReportRequest) -> dict[str, Any]:
    """What identifies model and machine, from a process of its own (see `identity`).

    Raises LabkitError for a model, device or dtype that does not exist, and for a cache that cannot
    be written.
    """
    given = [request.model, request.device, request.dtype]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "identity.json"
        done = subprocess.run(
            [sys.executable, "-m", "labkit.report.runs.identity", *given, str(target)],
            stderr=subprocess.PIPE,
            check=False,
        )
        found = read_json(target)
    if done.returncode or not found or "error" in found:
        ended = f"the model could not be looked at: its process ended with code {done.returncode}."
        raise LabkitError(str(found.get("error") or ended))
    return found


def default_name(request: ReportRequest, identity: Mapping[str, Any]) -> str:
    """The name of a run: today, model, device, dtype, profile. One request a day is one run."""
    model = re.sub(r"[^\w.+-]+", "-", identity["model"])[:_SHORT]
    parts = [f"{datetime.now():%Y-%m-%d}", model, identity["device"].replace(":", "")]
    if request.dtype != "float32":
        parts.append(request.dtype)
    return "-".join([*parts, request.profile])


def folder_of(request: ReportRequest, identity: Mapping[str, Any]) -> Path:
    """The folder of the run; ParameterError for a name that no folder can have."""
    name = request.name or default_name(request, identity)
    plain = name.isprintable() and name == name.strip() and not any(mark in name for mark in "/\\")
    if not plain or name.startswith(".") or name in _TAKEN:  # what is no UTF-8 is not printable
        raise ParameterError(f"RUN={shown(name)} is no folder name: use letters, digits, - and _.")
    if (size := len(name.encode())) > _LONGEST:
        raise ParameterError(f"RUN={shown(name)} has {size} bytes; allowed are {_LONGEST}.")
    return request.outputs / name
