"""Folders that are made once: whole, or made again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from labkit.base.kept import is_whole, keep


class Making:
    """Writes two files; counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, folder: Path) -> None:
        self.times += 1
        (folder / "in").mkdir()
        (folder / "in" / "one").write_text("first")
        (folder / "two").write_bytes(bytes(1000))


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    make, folder = Making(), tmp_path / "kept" / "a"
    for _ in range(3):
        assert keep(folder, "from this", make) == folder
    assert make.times == 1
    assert (folder / "in" / "one").read_text() == "first"
    assert [path.name for path in folder.parent.iterdir()] == ["a"]


@pytest.mark.parametrize("damage", ["changed", "cut", "gone", "seal", "other"])
def test_one_that_is_not_whole_is_made_again_with_a_word(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, folder = Making(), tmp_path / "a"
    keep(folder, "from this", make)
    if damage == "changed":
        (folder / "two").write_bytes(bytes(999) + b"x")
    elif damage == "cut":
        (folder / "two").write_bytes(b"")
    elif damage == "gone":
        (folder / "in" / "one").unlink()
    elif damage == "seal":
        (folder / "kept.json").write_text("[" * 5000)
    keep(folder, "from that" if damage == "other" else "from this", make)
    assert make.times == 2
    assert "made again" in capsys.readouterr().out
    assert (folder / "two").read_bytes() == bytes(1000)


def test_a_copy_with_other_times_is_whole(tmp_path: Path) -> None:
    make, folder = Making(), tmp_path / "a"
    keep(folder, "from this", make)
    os.utime(folder / "two", (1, 1))
    assert is_whole(folder, "from this")


def test_what_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep(tmp_path / "kept" / "a", "from this", fails)
    assert not list((tmp_path / "kept").iterdir())
