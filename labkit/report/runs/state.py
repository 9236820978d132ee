"""What a finished notebook depends on. If any of it changes, the notebook runs again.

These are its cells, the files of labkit that its imports reach, its parameters, the model and the
machine. Code that only runs notebooks and writes pages counts only where a notebook imports it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nbformat

from labkit.base.paths import project_root
from labkit.report.runs.notebooks import Notebook
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
    time of the run, so it is left out. package: the folder of labkit, by default this one.
    """
    folder = package or project_root() / "labkit"
    cells = nbformat.read(notebook.path, as_version=4).cells
    fixed = {name: value for name, value in identity.items() if name != "environment"}
    code = _digest(files_of(cells, folder), folder)
    texts = [(cell.cell_type, cell.source) for cell in cells]
    mark = json.dumps([texts, code, values, fixed], sort_keys=True)
    return hashlib.sha256(mark.encode()).hexdigest()
