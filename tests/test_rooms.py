"""Rooms know only those above them; techniques and reports do not know each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from labkit.paths import project_root

FORBIDDEN = dict.fromkeys(
    ("workload", "limits", "model", "timing", "quality"), ("labkit.optimize", "labkit.report")
) | {"optimize": ("labkit.report",), "report": ("labkit.optimize",)}


def imports(room: str) -> Iterator[tuple[str, str]]:
    """(file, module) of every import in a room, those within functions too."""
    for file in sorted((project_root() / "labkit" / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((file.name, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file} imports relatively: this test cannot see what."
                yield from ((file.name, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_knows_only_those_above_it(room: str) -> None:
    found = list(imports(room))
    assert found, f"labkit/{room} imports nothing: has it moved?"
    forbidden = tuple(f"{name}." for name in FORBIDDEN[room])
    assert [pair for pair in found if f"{pair[1]}.".startswith(forbidden)] == []
