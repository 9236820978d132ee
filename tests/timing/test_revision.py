"""What counts as a change of the tree: source, not what running a notebook writes into it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from labkit.timing.revision import changed, revision


def git(folder: Path, *arguments: str) -> None:
    given = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *given, *arguments], check=True, capture_output=True)


def notebook(**changes: Any) -> dict[str, Any]:
    cell = {
        "cell_type": "code", "execution_count": None, "id": "a", "outputs": [],
        "metadata": {"tags": ["parameters"]}, "source": ["a = 1\n", "b = 2"],
    } | changes  # fmt: skip
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    return {"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "a tree" / "notebooks"
    folder.mkdir(parents=True)
    (folder / "02 größer.ipynb").write_text(json.dumps(notebook()), encoding="utf-8")
    (folder / "code.py").write_text("x = 1\n")
    git(folder.parent, "init", "-q")
    git(folder.parent, "add", ".")
    git(folder.parent, "commit", "-q", "-m", "first")
    return folder


def write(folder: Path, content: dict[str, Any]) -> None:
    (folder / "02 größer.ipynb").write_text(json.dumps(content, indent=1), encoding="utf-8")


def test_a_tree_as_it_was_committed(tree: Path) -> None:
    assert revision(tree)
    assert changed(tree) is False


@pytest.mark.parametrize("staged", [False, True])
def test_what_running_a_notebook_writes_is_no_change(tree: Path, staged: bool) -> None:
    outputs = [{"output_type": "stream", "name": "stdout", "text": ["1\n"]}]
    timed = {"tags": ["parameters"], "execution": {"iopub.status.busy": "2026"}}
    run = notebook(outputs=outputs, execution_count=7, metadata=timed, source="a = 1\nb = 2")
    run["metadata"] = {"kernelspec": {"name": "other"}, "language_info": {"version": "3.12"}}
    write(tree, run)
    if staged:
        git(tree, "add", ".")
    assert changed(tree) is False


@pytest.mark.parametrize(
    "change",
    [{"source": ["a = 1\n", "b = 3"]}, {"cell_type": "markdown"}, {"metadata": {"tags": []}}],
)
def test_another_cell_is_a_change(tree: Path, change: dict[str, Any]) -> None:
    write(tree, notebook(**change))
    assert changed(tree) is True


def test_another_number_of_cells_is_a_change(tree: Path) -> None:
    write(tree, notebook() | {"cells": notebook()["cells"] * 2})
    assert changed(tree) is True


@pytest.mark.parametrize("what", ["code", "new", "new notebook", "gone", "broken", "moved"])
def test_everything_else_is_a_change(tree: Path, what: str) -> None:
    file = tree / "02 größer.ipynb"
    if what == "code":
        (tree / "code.py").write_text("x = 2\n")
    elif what == "new":
        (tree / "new.py").touch()
    elif what == "new notebook":
        (tree / "03.ipynb").write_text(json.dumps(notebook()))
    elif what == "gone":
        file.unlink()
    elif what == "broken":
        file.write_text("{")
    else:
        git(tree, "mv", file.name, "04.ipynb")
    assert changed(tree) is True


def test_outside_of_a_tree_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert revision(tmp_path) is None
    assert changed(tmp_path) is None
