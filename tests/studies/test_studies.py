"""A study without its notebook: one from a script, in three lines, and all by their sections."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import nbformat
import pytest

from tests.test_notebooks import FINDS, NOTEBOOKS, TINY
from tests.tiny import save_tiny_model

LIVE = {"sliders"}  # for a person at the notebook only


def sections(source: str) -> list[str]:
    """Methods of `study` in the order in which a source calls them."""
    found = [
        (node.lineno, node.func.attr)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "study"
    ]
    return [name for _, name in sorted(found) if name not in LIVE]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_run_goes_through_the_sections_of_the_notebook(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    notebook = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    module = importlib.import_module(f"labkit.studies.{path.stem[3:]}")
    assert sections(inspect.getsource(module.run)) == sections(notebook) != []


def test_a_study_runs_without_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / "model").mkdir()
    monkeypatch.setenv("LABKIT_RUN_DIR", str(tmp_path))
    from labkit.studies import kv_cache

    small = TINY["02_kv_cache"] | {"contexts": [8]}
    findings = kv_cache.run(model=str(save_tiny_model(folder)), device="cpu", **small)
    assert {(finding.variant, finding.phase) for finding in findings} == FINDS["02_kv_cache"]
    assert (tmp_path / "findings" / "02_kv_cache.json").exists()
    assert list((tmp_path / "traces" / "02_kv_cache").glob("*.json"))
