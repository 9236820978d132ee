"""Links from a page to the data that it shows; they work from a folder on a disk."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote


class Link(NamedTuple):
    """What a link is called, and where it leads."""

    text: str
    href: str


def of_notebook(run: Path, name: str) -> list[Link]:
    """From the page of a notebook, in `reports`: to its findings, notebook and traces, those that
    exist."""
    traces = sorted((run / "traces" / name).glob("*.json"))
    files = [
        ("findings", run / "findings" / f"{name}.json"),
        ("executed notebook", run / "notebooks" / f"{name}.ipynb"),
        *((f"trace {path.stem}", path) for path in traces),
    ]
    return list(_there(run, "../", files))


def of_run(run: Path) -> list[Link]:
    """From the page of a run: to all its findings as JSON and as CSV, and to its machine."""
    names = ("findings.json", "findings.csv", "environment.json")
    return list(_there(run, "", [(name, run / name) for name in names]))


def quoted(name: str) -> str:
    """The name of a file or a path for a link, whatever characters it has."""
    try:
        return quote(os.fsencode(name))
    except UnicodeEncodeError:  # half a character that stands for no byte
        return quote(name.encode("utf-8", "replace"))


def _there(run: Path, start: str, files: Iterable[tuple[str, Path]]) -> Iterable[Link]:
    for text, path in files:
        if path.is_file():
            yield Link(text, start + quoted(path.relative_to(run).as_posix()))
