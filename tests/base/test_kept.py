"""Folders that are made once: whole, or made again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from labkit.base.kept import folder_name, is_whole, keep, stamp
from labkit.base.paths import project_root


class Making:
    """Writes two files; counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, folder: Path) -> None:
        self.times += 1
        (folder / "in").mkdir()
        (folder / "in" / "one").write_text("first")
        (folder / "two").write_bytes(bytes(1000))


def write_unseen(path: Path, content: bytes) -> None:
    """Change a file, but neither its size nor its time of writing."""
    stat = path.stat()
    time.sleep(0.02)  # longer than a tick of the clock that the system stamps with
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    make, folder = Making(), tmp_path / "kept" / "a"
    for _ in range(3):
        assert keep(folder, "from this", make) == folder
    assert make.times == 1
    assert (folder / "in" / "one").read_text() == "first"
    assert [path.name for path in folder.parent.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "damage", ["changed", "unseen", "cut", "gone", "seal", "names nothing", "names less", "other"]
)
def test_one_that_is_not_whole_is_made_again_with_a_word(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, folder = Making(), tmp_path / "a"
    keep(folder, "from this", make)
    if damage == "changed":
        (folder / "two").write_bytes(bytes(999) + b"x")
    elif damage == "unseen":
        write_unseen(folder / "two", bytes(999) + b"x")
    elif damage == "cut":
        (folder / "two").write_bytes(b"")
    elif damage == "gone":
        (folder / "in" / "one").unlink()
    elif damage == "seal":
        (folder / "kept.json").write_text("[" * 5000)
    elif damage.startswith("names"):
        seal = json.loads((folder / "kept.json").read_text())
        seal["files"] = {} if damage == "names nothing" else {"two": seal["files"]["two"]}
        (folder / "kept.json").write_text(json.dumps(seal))
        (folder / "in" / "one").unlink()
    keep(folder, "from that" if damage == "other" else "from this", make)
    assert make.times == 2
    assert "made again" in capsys.readouterr().out
    assert (folder / "two").read_bytes() == bytes(1000)


def test_a_copy_with_other_times_is_whole(tmp_path: Path) -> None:
    make, folder = Making(), tmp_path / "a"
    keep(folder, "from this", make)
    os.utime(folder / "two", (1, 1))
    before = (folder / "kept.json").read_text()
    assert is_whole(folder, "from this")
    after = (folder / "kept.json").read_text()  # and is not read again
    assert after != before
    assert is_whole(folder, "from this")
    assert (folder / "kept.json").read_text() == after


@pytest.mark.parametrize("damaged", [False, True])
def test_several_processes_make_one_folder(tmp_path: Path, damaged: bool) -> None:
    folder = tmp_path / "kept" / "a"
    if damaged:
        keep(folder, "from that", Making())
    command = [sys.executable, "-m", "tests.base.kept_worker", str(folder), str(time.time() + 1)]
    workers = [
        subprocess.Popen(
            command, cwd=project_root(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    for worker in workers:
        out, err = worker.communicate(timeout=60)
        assert out.endswith("whole\n"), err
        assert worker.returncode == 0
    assert [path.name for path in folder.parent.iterdir()] == ["a"]
    assert is_whole(folder, "from this")


def test_a_file_in_the_folder_s_place_gives_way(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("no folder")
    keep(tmp_path / "a", "from this", Making())
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert is_whole(tmp_path / "a", "from this")


@pytest.mark.parametrize("size", [0, 1, 5000, 10**6])
def test_a_source_is_recognized(tmp_path: Path, size: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(size))
    found = stamp(source)
    assert stamp(source) == found
    if size:
        write_unseen(source, bytes(size - 1) + b"x")
        assert stamp(source) != found
        assert stamp(source).split("|")[-1] != found.split("|")[-1]  # of the bytes themselves


def test_names_of_folders_fit_a_file_system() -> None:
    assert folder_name("model", "key") == "model-key"
    for name in ("x" * 250, "é" * 125, os.fsdecode(b"\xff" * 250)):
        assert len(os.fsencode(folder_name(name, "key"))) <= 84


def test_what_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").write_text("")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep(tmp_path / "kept" / "a", "from this", fails)
    assert not list((tmp_path / "kept").iterdir())
