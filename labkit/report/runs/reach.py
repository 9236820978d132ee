"""Which files of a package some code can reach. The code is read, never run.

Code reaches

- what it imports: at the top, within functions and under TYPE_CHECKING; a package by its
  `__init__.py`, and every package on the way to a module;
- what it starts instead of importing: a string that is the whole name of a module
  (`-m package.room.module`, `import_module`), or the name of a Python file or of a folder of Python
  files beside the module that holds the string (`Path(__file__).with_name("worker.py")`);
- the data of every module it reaches: the files beside the module that are not Python, and folders
  of such files (kernel sources, tables, texts, templates).

Any string that equals such a name counts, whether or not it is used as one. So a file may be listed
that is not used. Imports are absolute in this project; a relative one is not followed.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Mentions(NamedTuple):
    """The dotted names that some code imports, and the strings in it."""

    imports: frozenset[str]
    strings: frozenset[str]


@cache
def mentions(source: str) -> Mentions:
    """What Python source mentions; SyntaxError where it is none."""
    imports: set[str] = set()
    strings: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imports.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imports.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.add(node.value)
    return Mentions(frozenset(imports), frozenset(strings))


def everything(package: Path) -> frozenset[Path]:
    """Every file of a package folder, but for what Python and editors leave there."""
    return frozenset(
        path
        for path in package.rglob("*")
        if path.is_file() and not _left_behind(path.relative_to(package))
    )


def _left_behind(path: Path) -> bool:
    return any(part == "__pycache__" or part.startswith(".") for part in path.parts)


def module_files(package: Path, name: str) -> set[Path]:
    """The file of the module that a dotted name leads to, and of the packages it lies in.

    The end of the name may be something within the module. Empty for a name of another package.
    """
    top, *parts = name.split(".")
    if top != package.name:
        return set()
    found, folder = {package / "__init__.py"}, package
    for part in parts:
        if (folder / part).is_dir():
            folder = folder / part
            found.add(folder / "__init__.py")
        else:
            found.add(folder / f"{part}.py")
            break
    return {path for path in found if path.is_file()}


def _beside(folder: Path, strings: frozenset[str]) -> set[Path]:
    """Python files in this folder that strings name, themselves or by a folder that holds them."""
    found: set[Path] = set()
    for path in folder.iterdir():
        if path.name in strings and path.suffix == ".py":
            found.add(path)
        elif path.name in strings and path.is_dir():
            found.update(path.rglob("*.py"))
    return found


def _data(folder: Path) -> set[Path]:
    """Files beside a module that are not Python, and those of folders without any Python."""
    found: set[Path] = set()
    for path in folder.iterdir():
        if _left_behind(Path(path.name)):
            continue
        if path.is_file() and path.suffix != ".py":
            found.add(path)
        elif path.is_dir() and not any(path.rglob("*.py")):
            found |= everything(path)
    return found


def _named(found: Mentions, package: Path) -> set[Path]:
    names = found.imports | {string for string in found.strings if _is_module(package, string)}
    return {path for name in names for path in module_files(package, name)}


def _is_module(package: Path, string: str) -> bool:
    """Whether a string is the whole name of a module or package, not of something within one."""
    top, *parts = string.split(".")
    if top != package.name or not all(part.isidentifier() for part in parts):
        return False
    path = package.joinpath(*parts)
    return path.is_dir() or path.with_suffix(".py").is_file()


def _led_to(file: Path, package: Path) -> set[Path]:
    """What one Python file mentions; nothing for a file that cannot be read or parsed."""
    try:
        found = mentions(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return set()
    return _named(found, package) | _beside(file.parent, found.strings)


def reached(source: str, package: Path) -> frozenset[Path]:
    """The files of a package folder that some code reaches, Python and data.

    Everything where the code cannot be parsed, as with a cell that calls a magic command.
    """
    try:
        waiting = _named(mentions(source), package)
    except SyntaxError:
        return everything(package)
    modules: set[Path] = set()
    while waiting:
        file = waiting.pop()
        modules.add(file)
        waiting |= _led_to(file, package) - modules
    folders = {file.parent for file in modules}
    return frozenset(modules.union(*map(_data, folders)))
