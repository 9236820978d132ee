"""Limits of size: of files, functions, notebooks, and of a room's share of the code."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.labkit_tree import (
    LABKIT,
    ROOT,
    cells,
    code_lines,
    functions,
    kernel_files,
    python_files,
)

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def too_long(paths: list[Path], most: int) -> dict[str, int]:
    return {str(path.relative_to(ROOT)): lines(path) for path in paths if lines(path) > most}


def test_python_files_have_at_most_300_lines() -> None:
    assert too_long(python_files("labkit", "tests"), 300) == {}


def test_kernel_files_have_at_most_350_lines() -> None:
    assert kernel_files()
    assert too_long(kernel_files(), 350) == {}


def test_functions_have_at_most_45_lines() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {name}": count
        for path in python_files("labkit", "tests")
        for name, count in functions(path)
        if count > 45
    }
    assert found == {}


def test_no_room_holds_more_than_two_fifths_of_the_code() -> None:
    found: Counter[str] = Counter()
    for path in [*python_files("labkit"), *kernel_files()]:
        found[path.relative_to(LABKIT).parts[0]] += code_lines(path)
    shares = {room: count / found.total() for room, count in found.items()}
    assert {room: f"{share:.0%}" for room, share in shares.items() if share > 0.4} == {}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_short_cells_and_little_code(path: Path) -> None:
    counts = [len(source.splitlines()) for source in cells(path)]
    assert max(counts) <= 20
    assert sum(counts) <= 150
