"""The source tree as data, for the tests of its order and its size: files, modules and imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import nbformat

from labkit.base.paths import project_root

ROOT = project_root()
LABKIT = ROOT / "labkit"
KERNEL = (".cpp", ".h")


def python_files(*folders: str) -> list[Path]:
    """Every Python file of these folders of the project."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def kernel_files() -> list[Path]:
    """Every C++ file of labkit."""
    return sorted(path for path in LABKIT.rglob("*") if path.suffix in KERNEL)


def code_lines(path: Path) -> int:
    """Lines of a file that are not empty."""
    return sum(bool(line.strip()) for line in path.read_text(encoding="utf-8").splitlines())


def name_of(path: Path) -> str:
    """labkit/model/rows.py -> labkit.model.rows; a package by its own name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    """A Python file, parsed once for all tests."""
    return ast.parse(path.read_text(encoding="utf-8"))


def _names(node: ast.AST, path: Path) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{path} imports relatively, which these tests do not follow."
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def every_import(path: Path) -> tuple[str, ...]:
    """Dotted names that a file imports from labkit, also within functions and for types."""
    names = (name for node in ast.walk(tree_of(path)) for name in _names(node, path))
    return tuple(name for name in names if name.startswith("labkit."))


def first_imports(path: Path) -> Iterator[str]:
    """Dotted names of labkit that importing a file imports: not within functions, nor for types."""
    waiting: list[ast.AST] = [tree_of(path)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        yield from (name for name in _names(node, path) if name.startswith("labkit."))
        waiting += ast.iter_child_nodes(node)


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and number of lines of every function and method of a file, decorators left out."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def cells(path: Path) -> list[str]:
    """The sources of a notebook's code cells."""
    notebook = nbformat.read(path, as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]
