"""A room, which is a folder of labkit, imports only rooms on lower floors; no imports go round."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.labkit_tree import LABKIT, ROOT, every_import, first_imports, name_of, python_files

# From the ground up; rooms of one floor do not import each other.
FLOORS = (
    ("errors",),
    ("base",),
    ("workload", "model"),
    ("limits",),
    ("timing",),
    ("engine",),
    ("quality",),
    ("report", "optimize"),
    ("fast",),
    ("bench",),
    ("studies",),
    ("cli",),
)
# The floors within a room that has some.
WITHIN = {
    "report": (
        ("told",),
        ("folders",),
        ("finding", "compare"),
        ("check_example", "pages"),
        ("runs",),
    ),
    "report.told": (
        ("finding",),
        ("words",),
        ("compared", "turns", "answer"),
        ("plots", "matters"),
        ("notebook",),
        ("busy",),
        ("decoders",),
    ),
}
ARCHITECTURE = ROOT / "docs" / "architecture.md"
FILES = python_files("labkit")
MODULES = {name_of(path): path for path in FILES}


def room_of(name: str, within: str = "labkit") -> str:
    """The room that a dotted name lies in: the part that comes after `within`."""
    return name.removeprefix(f"{within}.").split(".")[0]


def floor_of(floors: Sequence[Sequence[str]]) -> dict[str, int]:
    return {room: number for number, rooms in enumerate(floors) for room in rooms}


def above(floors: Mapping[str, int], within: str = "labkit") -> Iterator[tuple[str, str]]:
    """(module, what it imports) wherever the import is not from a floor below."""
    for name, path in MODULES.items():
        if not name.startswith(f"{within}."):
            continue
        room = room_of(name, within)
        for imported in every_import(path):
            other = room_of(imported, within) if imported.startswith(f"{within}.") else room
            if other != room and floors[other] >= floors[room]:
                yield name, imported


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(name) for name in MODULES} - {"labkit"}
    assert rooms == {*floor_of(FLOORS), "__main__"}


@pytest.mark.parametrize("room", floor_of(FLOORS))
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    floors = floor_of([*FLOORS, ("__main__",)])
    assert [pair for pair in above(floors) if room_of(pair[0]) == room] == []


@pytest.mark.parametrize("room", WITHIN)
def test_a_room_has_floors_of_its_own(room: str) -> None:
    within = f"labkit.{room}"
    floors = floor_of(WITHIN[room])
    here = {room_of(name, within) for name in MODULES if name.startswith(f"{within}.")}
    assert here == set(floors)
    assert list(above(floors, within)) == []


def read_floors(text: str) -> tuple[tuple[str, ...], ...]:
    """The floors of a text: lines of the form "1. `room`, `room`: ...", from the ground up."""
    found = re.findall(r"^(\d+)\. ((?:`\w+`(?:, )?)+):", text, re.MULTILINE)
    assert [int(number) for number, _ in found] == list(range(1, len(found) + 1))
    return tuple(tuple(re.findall(r"`(\w+)`", rooms)) for _, rooms in found)


def test_floors_are_read_from_a_text() -> None:
    text = "The floors:\n\n1. `errors`: what\n2. `base`, `model`: more\n\nAnd `code`.\n"
    assert read_floors(text) == (("errors",), ("base", "model"))


def test_the_floors_are_those_of_the_architecture() -> None:
    assert read_floors(ARCHITECTURE.read_text()) == FLOORS


def module_of(name: str) -> str | None:
    """The module that a dotted name leads to; the end of the name may lie within it."""
    while name not in MODULES and "." in name:
        name = name.rpartition(".")[0]
    return name if name in MODULES else None


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """A circle of a graph, from a node back to it; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})[0] in "abc"
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_two_modules_import_each_other() -> None:
    """Of imports that run when a module is imported; also along any longer way round."""
    graph: dict[str, set[str]] = {}
    for name, path in MODULES.items():
        found = {module_of(imported) for imported in first_imports(path)}
        graph[name] = {other for other in found if other and other != name}
    assert circle(graph) == []


def test_imports_within_functions_and_for_types_are_not_first(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(
        "import labkit.a\nif TYPE_CHECKING:\n    import labkit.b\nelse:\n    import labkit.c\n"
        "def f():\n    import labkit.d\nclass C:\n    from labkit.e import x\n"
    )
    assert set(first_imports(path)) == {"labkit.a", "labkit.c", "labkit.e.x"}
    assert {name.split(".")[1] for name in every_import(path)} == set("abcde")


def test_labkit_lies_where_these_tests_look() -> None:
    assert LABKIT.is_dir()
    assert len(MODULES) > 100
