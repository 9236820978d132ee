"""What a kept result depends on: change any of it, and the notebook runs again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import nbformat

from labkit.report.notebooks import Notebook

_IMPORTED_BY_NOTEBOOKS = ("compared.py", "finding.py", "plots.py")


@cache
def code_hash() -> str:
    """Of all that a notebook may import: labkit, but for what only runs notebooks and tells."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        tells = name.parts[0] == "report" and path.name not in _IMPORTED_BY_NOTEBOOKS
        if path.is_file() and path.suffix != ".pyc" and not tells:
            digest.update(str(name).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def resume_key(notebook: Notebook, values: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """Hash of the notebook's cells, labkit's code, the parameters, the model and the machine."""
    cells = [(c.cell_type, c.source) for c in nbformat.read(notebook.path, as_version=4).cells]
    fixed = {k: v for k, v in identity.items() if k != "environment"}
    mark = json.dumps([cells, code_hash(), values, fixed], sort_keys=True)
    return hashlib.sha256(mark.encode()).hexdigest()
