"""What a finished notebook depends on. If any of it changes, the notebook runs again.

These are its cells, the files of labkit that its imports reach, its parameters, the model, the
machine, and the run's measurement of the machine. Code that only runs notebooks and writes pages
counts only where a notebook imports it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from labkit.base.paths import atomic_write, project_root, read_json
from labkit.report.runs.notebooks import Notebook, read_cells
from labkit.report.runs.reach import reached


def _digest(files: Iterable[Path], package: Path) -> str:
    """Hash of the names and contents of files."""
    digest = hashlib.sha256()
    for path in sorted(files):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def files_of(cells: Iterable[Any], package: Path) -> frozenset[Path]:
    """The files of a package that the code cells of a notebook reach."""
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    return reached("\n".join(code), package)


def resume_key(
    notebook: Notebook,
    values: Mapping[str, Any],
    identity: Mapping[str, Any],
    package: Path | None = None,
) -> str:
    """Hash of all that the result of a notebook depends on.

    values: its parameters. identity: of the model and the machine; its `environment` has the
    time of the run, so it is left out. package: the folder of labkit, by default this one. Raises
    ParameterError where the notebook cannot be read.
    """
    folder = package or project_root() / "labkit"
    cells = read_cells(notebook.path)
    fixed = {name: value for name, value in identity.items() if name != "environment"}
    code = _digest(files_of(cells, folder), folder)
    texts = [(cell.cell_type, cell.source) for cell in cells]
    mark = json.dumps([texts, code, values, fixed], sort_keys=True)
    return hashlib.sha256(mark.encode()).hexdigest()


def measurements(run: Path) -> dict[str, str]:
    """Hashes of the files that hold the run's measurement of the machine, by name.

    The first notebook of a run that needs one makes it (`limits.measure`), and the others read it.
    """
    files = sorted((run / "hardware").glob("*.json"))
    held = [path for path in files if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in held}


def save_state(run: Path, name: str, key: str, seconds: float) -> None:
    """Write that a notebook is done: its key, and the measurement that its limits are told by."""
    state = {"key": key, "seconds": seconds, "hardware": measurements(run)}
    atomic_write(run / "state" / f"{name}.json", json.dumps(state))


def is_done(run: Path, name: str, key: str) -> bool:
    """Whether a notebook is done with this key, and by a measurement that the run still has.

    Otherwise a continued run would tell limits by two measurements of one machine.
    """
    state, now = read_json(run / "state" / f"{name}.json"), measurements(run)
    used = state.get("hardware")
    same = isinstance(used, dict) and all(now.get(file) == mark for file, mark in used.items())
    return state.get("key") == key and same
