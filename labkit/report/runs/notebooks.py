"""The notebooks, the parameters that they declare, and the values that a run gives them."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

from labkit.base.nearest import hint, nearest
from labkit.base.paths import text_in
from labkit.base.units import shown
from labkit.errors import ParameterError, one_line

_TYPES: dict[str, type] = {"int": int, "float": float, "bool": bool, "str": str}
_LARGEST = 2**20  # bytes of a file of parameters
_NEAREST = 2  # of the known names, so many are told at most


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

    def defaults(self) -> dict[str, Any]:
        """Its parameters as it has them."""
        return {name: default for name, (_, default) in self.parameters.items()}

    def declared(self) -> str:
        """Where its parameters and their types stand, for an error message."""
        return f"The parameters cell of notebooks/{self.path.name} lists all"


def _declared(source: str, where: str) -> dict[str, tuple[str, Any]]:
    found = {}
    for node in _statements(source, where):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            raise ParameterError(
                f"{where}: the parameters cell may hold only `name: type = value`."
            )
        if node.value is None:
            raise ParameterError(f"{where}: parameter {node.target.id} has no default.")
        kind = ast.unparse(node.annotation)
        try:
            found[node.target.id] = (kind, ast.literal_eval(node.value))
        except ValueError:
            raise ParameterError(
                f"{where}: the default of {node.target.id} is no plain value: "
                f"{ast.unparse(node.value)}."
            ) from None
    return found


def _statements(source: str, where: str) -> list[ast.stmt]:
    try:
        return ast.parse(source).body
    except (SyntaxError, ValueError) as error:
        raise ParameterError(f"{where}: the parameters cell is no Python ({error}).") from None


def read_cells(path: Path) -> list[Any]:
    """The cells of a notebook file; ParameterError, in one line, for one that cannot be read."""
    try:
        cells = list(nbformat.read(path, as_version=4).cells)
        whole = all(isinstance(c.source, str) and isinstance(c.metadata, dict) for c in cells)
    except OSError as error:
        raise ParameterError(f"{path.name} cannot be read: {error.strerror}.") from None
    except Exception as error:  # nbformat raises many kinds, for a file that may hold anything
        raise ParameterError(f"{path.name} is no notebook ({type(error).__name__}).") from None
    if not whole:
        raise ParameterError(f"{path.name} is no notebook: a cell has no text.")
    return cells


def is_notebook(path: Path) -> bool:
    """Whether a file is a whole notebook; a full disk leaves half of one."""
    try:
        return bool(read_cells(path))
    except ParameterError:
        return False


def _tags(cell: Any) -> list[Any]:
    found = cell.metadata.get("tags")
    return found if isinstance(found, list) else []


def read_notebook(path: Path) -> Notebook:
    """A notebook file's title (its first heading) and its declared parameters.

    Raises ParameterError for a file that is no notebook, and for a parameters cell that holds
    anything but `name: type = value`.
    """
    cells = read_cells(path)
    headings = [
        line.removeprefix("# ").strip()
        for cell in cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("# ")
    ]
    tagged = [cell.source for cell in cells if "parameters" in _tags(cell)]
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
    if kind == "float":  # NaN and infinity are no values of anything
        return isinstance(value, int | float) and abs(value) <= sys.float_info.max
    return kind in _TYPES and isinstance(value, _TYPES[kind])


def _hint(name: Any, known: Mapping[str, str]) -> str:
    """A sentence with the known names that are nearest to one that may be anything, or nothing.

    known: by name, what is told of it.
    """
    return hint(f"{one} ({known[one]})" for one in nearest(str(name), known, _NEAREST))


def _check_value(notebook: Notebook, name: Any, value: Any, where: str) -> None:
    if name not in notebook.parameters:
        hint = _hint(name, {one: kind for one, (kind, _) in notebook.parameters.items()})
        raise ParameterError(
            f"{where}: {notebook.name} has no parameter {shown(name)}.{hint} {notebook.declared()}."
        )
    kind, _ = notebook.parameters[name]
    if not _fits(value, kind):
        given = "no value" if value is None else f"{shown(value)}, {type(value).__name__}"
        raise ParameterError(
            f"{where}: {name} of {notebook.name} must be {kind}; it is {given}. "
            f"{notebook.declared()}."
        )


def read_overrides(path: Path) -> dict[str, Any]:
    """The parameters in a YAML file: `name: value`, or `NN_notebook: {name: value}`.

    A notebook's section may be empty. Raises ParameterError where the file cannot be read, holds
    something else, or names something twice.
    """
    where = one_line(str(path))
    try:
        raw = yaml.load(text_in(path, _LARGEST), _Once)
    except OSError as error:
        raise ParameterError(f"{where} cannot be read: {error.strerror}.") from None
    except Exception as error:  # yaml raises many kinds, for a file that may hold anything
        expected = isinstance(error, yaml.YAMLError | ValueError | RecursionError)
        said = " ".join(str(error).split()) if expected else "a value does not fit its tag"
        raise ParameterError(f"{where} is not YAML: {one_line(said)}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise ParameterError(f"{where} must map names to values; it holds {type(raw).__name__}.")
    return raw


class _Once(yaml.SafeLoader):
    """YAML in which no mapping names anything twice: only one of the two values would count."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; ConstructorError for a key that it has already."""
        keys = [key.value for key, _ in node.value if isinstance(key.value, str)]
        if repeated := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(
                None, None, f"{shown(repeated[0])} is given twice", node.start_mark
            )
        return super().construct_mapping(node, deep)


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
        if isinstance(value, dict) or (value is None and name in by_name):
            if name not in by_name:
                known = ", ".join(by_name)
                raise ParameterError(f"{where}: {shown(name)} is no notebook; there are {known}.")
            for inner, inner_value in (value or {}).items():
                _check_value(by_name[name], inner, inner_value, where)
            values.get(name, {}).update(value or {})
            continue
        owners = [notebook for notebook in every if name in notebook.parameters]
        if not owners:
            _refuse_everywhere(every, name, where)
        for notebook in owners:
            _check_value(notebook, name, value, where)
            values.get(notebook.name, {})[name] = value
    return values


def _refuse_everywhere(every: Sequence[Notebook], name: str, where: str) -> None:
    owner: dict[str, str] = {}
    for notebook in every:
        for parameter, (kind, _) in notebook.parameters.items():
            owner.setdefault(parameter, f"{kind}, in {notebook.name}")
    raise ParameterError(
        f"{where}: no notebook has a parameter {shown(name)}.{_hint(name, owner)} "
        "The parameters cell of each notebook in notebooks/ lists its own."
    )


def read_profile(folder: Path, profile: str) -> dict[str, Any]:
    """The parameters of a profile in notebooks/profiles; ParameterError for an unknown one."""
    known = {path.stem: path for path in sorted((folder / "profiles").glob("*.yaml"))}
    if profile not in known:
        allowed = ", ".join(known) or "none"
        raise ParameterError(f"profile {shown(profile)} is unknown; allowed: {allowed}.")
    return read_overrides(known[profile])
