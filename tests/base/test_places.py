"""Places to write to are tried before anything is measured. Tests may run as root, whom no
permission stops: a folder stands in a file's place, and the other way round."""

from __future__ import annotations

import errno
import os
from collections import namedtuple
from pathlib import Path

import pytest

from labkit.base import places
from labkit.base.places import UnwritableError, try_file, try_folder, write_result


def refused(act, *words: str) -> None:
    with pytest.raises(UnwritableError) as caught:
        act()
    said = str(caught.value)
    assert "\n" not in said
    for word in (*words, "cannot be written", "do this."):
        assert word in said


def test_a_folder_is_made_and_nothing_stays_in_it(tmp_path: Path) -> None:
    assert list(try_folder(tmp_path / "a" / "b", "it", "do this").iterdir()) == []


def test_a_file_may_be_there_or_not(tmp_path: Path) -> None:
    target = tmp_path / "new" / "x.json"
    assert try_file(target, "it", "do this") == target
    assert not target.exists()
    target.write_text("old")
    try_file(target, "it", "do this")
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


def test_what_stands_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to(tmp_path / "none" / "at all")
    refused(lambda: try_folder(tmp_path / "file", "it", "do this"), "it", "File exists")
    refused(lambda: try_folder(tmp_path / "file" / "x", "it", "do this"), "Not a directory")
    refused(lambda: try_file(tmp_path / "file" / "x", "it", "do this"), "the folder of it")
    refused(lambda: try_file(tmp_path, "it", "do this"), "Is a directory")
    for name in ("pipe", "nowhere"):
        refused(lambda name=name: try_file(tmp_path / name, "it", "do this"), "no regular file")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc and /dev/full")
def test_devices_and_systems_own_places_are_refused() -> None:
    refused(lambda: try_folder(Path("/proc/labkit"), "it", "do this"))
    refused(lambda: try_file(Path("/dev/full"), "it", "do this"), "no regular file")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "\ud800"])
def test_names_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    refused(lambda: try_file(tmp_path / name, "it", "do this"))


def test_a_disk_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(places.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 2**20))
    refused(lambda: try_folder(tmp_path, "it", "do this"), "1 MB left")


def test_a_closed_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(**_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(places.tempfile, "TemporaryFile", closed)
    refused(lambda: try_folder(tmp_path, "it", "do this"), "Permission denied")


def test_what_fails_after_all_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    refused(lambda: write_result(tmp_path / "x", "text", "it", "do this"), "directory")


def test_the_cache_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "cache"))
    assert places.writable_cache() == tmp_path / "cache"
    monkeypatch.setattr(places.shutil, "disk_usage", lambda _: namedtuple("usage", "free")(0))
    with pytest.raises(UnwritableError, match="set LABKIT_CACHE to another folder"):
        places.writable_cache()
