"""Which revision of this tree a run was made from, and whether anything in it was changed since.

A notebook that somebody has run in JupyterLab holds outputs, execution counts and the name of a
kernel. Nothing of this is code, so it is no change. Its cells are: their order, kinds, texts and
tags (papermill finds the parameters by a tag).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_SECONDS = 5  # for which git may take its time
_MODIFIED = {" M", "M ", "MM"}  # git-status(1): the index, the tree, or both differ


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None where it fails, or is not here."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=True)
        return done.stdout.decode("utf-8", "surrogateescape")
    except (OSError, subprocess.SubprocessError):
        return None


def revision(folder: Path) -> str | None:
    """The short name of the commit that a folder's tree is at; None where it is in no tree."""
    found = _git(folder, "rev-parse", "--short", "HEAD")
    return None if found is None else found.strip()


def changed(folder: Path) -> bool | None:
    """Whether a folder's tree differs from its commit in anything but what running a notebook
    writes into it; None where that cannot be known."""
    top = _git(folder, "rev-parse", "--show-toplevel")
    status = _git(folder, "status", "--porcelain", "-z", "--no-renames")
    if top is None or status is None:
        return None
    root = Path(top.removesuffix("\n"))
    return any(not _only_run(root, mark, name) for mark, name in _entries(status))


def _entries(status: str) -> Iterator[tuple[str, str]]:
    """The mark and the path, from the root of the tree, of each file that differs."""
    for entry in status.split("\0"):
        if entry:
            yield entry[:2], entry[3:]


def _only_run(root: Path, mark: str, name: str) -> bool:
    """Whether a file is a notebook of which only what running it writes has changed."""
    if mark not in _MODIFIED or not name.endswith(".ipynb"):
        return False
    before = _git(root, "show", f"HEAD:{name}")
    try:
        now = (root / name).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    cells = _cells(before)
    return cells is not None and cells == _cells(now)


def _cells(text: str | None) -> list[Any] | None:
    """Kind, text and tags of each cell; None where the text is no notebook."""
    try:
        cells = json.loads(text or "")["cells"]
        return [
            (cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags") or [])
            for cell in cells
        ]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
