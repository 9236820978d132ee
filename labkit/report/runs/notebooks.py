"""The notebooks, the parameters that they declare, and the values that a run gives them."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

from labkit.errors import ParameterError

_TYPES: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str}


@dataclass(frozen=True)
class Notebook:
    """A notebook. parameters: by name, the type as written in the notebook, and the default."""

    path: Path
    title: str
    parameters: dict[str, tuple[str, Any]]

    @property
    def name(self) -> str:
        """The file's name without its ending: 02_kv_cache."""
        return self.path.stem

    def declared(self) -> str:
        """Its parameters and their types, for an error message."""
        return ", ".join(f"{name}: {kind}" for name, (kind, _) in self.parameters.items())


def _declared(source: str, where: str) -> dict[str, tuple[str, Any]]:
    found = {}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            raise ParameterError(
                f"{where}: the parameters cell may hold only `name: type = value`."
            )
        if node.value is None:
            raise ParameterError(f"{where}: parameter {node.target.id} has no default.")
        kind = ast.unparse(node.annotation)
        found[node.target.id] = (kind, ast.literal_eval(node.value))
    return found


def read_notebook(path: Path) -> Notebook:
    """A notebook file's title (its first heading) and its declared parameters.

    Raises ParameterError for a parameters cell that holds anything but `name: type = value`.
    """
    notebook = nbformat.read(path, as_version=4)
    headings = [
        line.removeprefix("# ").strip()
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("# ")
    ]
    tagged = [c.source for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    parameters = _declared(tagged[0], path.stem) if tagged else {}
    return Notebook(path, headings[0] if headings else path.stem, parameters)


def discover(folder: Path) -> list[Notebook]:
    """All notebooks of a folder that are named NN_something, in order; ParameterError for none."""
    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not paths:
        raise ParameterError(f"{folder} holds no notebook named like 00_something.ipynb.")
    return [read_notebook(path) for path in paths]


def select(notebooks: Sequence[Notebook], only: str | None) -> list[Notebook]:
    """The notebooks that `only` names: numbers, names or beginnings of names, with commas.

    Empty names all. Raises ParameterError for a part that fits no notebook.
    """
    wanted = [part.strip() for part in (only or "").split(",") if part.strip()]
    if not wanted and only and only.strip():
        raise ParameterError(f"ONLY={only} names no notebook: leave it out to run all.")
    if not wanted:
        return list(notebooks)
    chosen: list[Notebook] = []
    for part in wanted:
        found = [n for n in notebooks if n.name == part] or [
            n for n in notebooks if n.name.startswith(part) or n.name[3:].startswith(part)
        ]
        if not found:
            names = ", ".join(n.name for n in notebooks)
            raise ParameterError(f"ONLY={part} names no notebook; there are {names}.")
        chosen += found
    return [n for n in notebooks if n in chosen]


def _fits(value: Any, kind: str) -> bool:
    if kind.startswith("list[") and kind.endswith("]"):
        return isinstance(value, list) and all(_fits(item, kind[5:-1]) for item in value)
    if isinstance(value, bool):
        return kind == "bool"
    if kind == "float" and isinstance(value, int):
        return True
    return kind in _TYPES and isinstance(value, _TYPES[kind])


def _check_value(notebook: Notebook, name: str, value: Any, where: str) -> None:
    if name not in notebook.parameters:
        near = difflib.get_close_matches(name, notebook.parameters, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ParameterError(
            f"{where}: {notebook.name} has no parameter {name!r}.{hint} "
            f"It has: {notebook.declared()}."
        )
    kind, _ = notebook.parameters[name]
    if not _fits(value, kind):
        raise ParameterError(
            f"{where}: {name} of {notebook.name} must be {kind}; {value!r} is "
            f"{type(value).__name__}. Its parameters: {notebook.declared()}."
        )


def read_overrides(path: Path) -> dict[str, Any]:
    """The parameters in a YAML file: `name: value`, or `NN_notebook: {name: value}`.

    Raises ParameterError where the file cannot be read or holds something else.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParameterError(f"{path} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is not YAML: {error}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise ParameterError(f"{path} must map names to values; it holds {type(raw).__name__}.")
    return raw


def apply_overrides(
    chosen: Sequence[Notebook],
    every: Sequence[Notebook],
    overrides: Mapping[str, Any],
    where: str,
) -> dict[str, dict[str, Any]]:
    """The values for each chosen notebook, checked against its declared parameters.

    `name: value` goes to every chosen notebook that declares the name. A name that only other
    notebooks declare is checked, but not used. Raises ParameterError for a name that no notebook
    declares, and for a value of the wrong type. where: names the source in an error message.
    """
    values: dict[str, dict[str, Any]] = {notebook.name: {} for notebook in chosen}
    by_name = {notebook.name: notebook for notebook in every}
    for name, value in overrides.items():
        if isinstance(value, dict):
            if name not in by_name:
                known = ", ".join(by_name)
                raise ParameterError(f"{where}: {name!r} is no notebook; there are {known}.")
            for inner, inner_value in value.items():
                _check_value(by_name[name], inner, inner_value, where)
            values.get(name, {}).update(value)
            continue
        owners = [notebook for notebook in every if name in notebook.parameters]
        if not owners:
            _refuse_everywhere(every, name, where)
        for notebook in owners:
            _check_value(notebook, name, value, where)
            values.get(notebook.name, {})[name] = value
    return values


def _refuse_everywhere(every: Sequence[Notebook], name: str, where: str) -> None:
    known = sorted({parameter for notebook in every for parameter in notebook.parameters})
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    each = "; ".join(f"{notebook.name} ({notebook.declared()})" for notebook in every)
    raise ParameterError(f"{where}: no notebook has a parameter {name!r}.{hint} There are: {each}.")


def read_profile(folder: Path, profile: str) -> dict[str, Any]:
    """The parameters of a profile in notebooks/profiles; ParameterError for an unknown one."""
    path = folder / "profiles" / f"{profile}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise ParameterError(f"profile {profile!r} is unknown; allowed: {known}.")
    return read_overrides(path)
