"""The response cache's file: many processes, killed writers, damage of every kind, a full disk."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest

from labkit.engine.responses import ResponseCache
from tests.engine.response_worker import answer_of, key_of
from tests.labkit_tree import ROOT


def start(file: Path, first: int, count: int, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.engine.response_worker", str(file), str(first)]
    return subprocess.Popen(
        [*command, str(count), *more],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def filled(file: Path, count: int = 300) -> ResponseCache:
    cache = ResponseCache(file)
    for number in range(count):
        cache.put(key_of(number), answer_of(number))
    cache.close()
    return cache


def is_whole(file: Path) -> bool:
    with sqlite3.connect(file) as opened:
        found = opened.execute("PRAGMA integrity_check").fetchall()
    opened.close()
    return bool(found == [("ok",)])


def check(cache: ResponseCache, numbers: range) -> int:
    """How many answers are found; every one that is found must be right."""
    found = 0
    for number in numbers:
        answer = cache.get(key_of(number))
        assert answer in (None, answer_of(number))
        found += answer is not None
    return found


def warnings_of_use(file: Path) -> int:
    """How many warnings a cache over a damaged file gives; it must be right, and usable again."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        cache = ResponseCache(file)
        check(cache, range(60))
        assert cache.put(key_of(7), answer_of(7))
        assert cache.get(key_of(7)) == answer_of(7)
        cache.close()
    return len(told)


def test_several_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "answers.sqlite"
    # Each writes 100 that the next writes too.
    workers = [start(file, 200 * k, 300) for k in range(4)]
    for worker in workers:
        out, error = worker.communicate(timeout=120)
        assert out.splitlines()[-1:] == ["whole"], error
        assert error == ""
    cache = ResponseCache(file)
    assert check(cache, range(900)) == cache.count() == 900
    cache.close()
    assert is_whole(file)


@pytest.mark.parametrize("after", [1, 40, 150])
def test_a_killed_writer_leaves_it_whole(tmp_path: Path, after: int) -> None:
    file = tmp_path / "answers.sqlite"
    worker = start(file, 0, 100_000)
    other = start(file, 100_000, 100)
    assert worker.stdout is not None
    kept = [int(next(worker.stdout)) for _ in range(after)]
    worker.send_signal(signal.SIGKILL)
    kept += [int(line) for line in worker.communicate(timeout=60)[0].splitlines()]
    other.communicate(timeout=60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache = ResponseCache(file)
        assert all(cache.get(key_of(number)) == answer_of(number) for number in kept)
        assert check(cache, range(100_000, 100_100)) == 100
        cache.close()
    assert is_whole(file)


@pytest.mark.parametrize("damage", ["nothing of it", "text", "foreign", "older", "header", "cut"])
def test_a_file_that_is_not_ours_is_set_aside_and_made_again(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "answers.sqlite"
    filled(file)
    data = file.read_bytes()
    if damage == "foreign":
        file.unlink()
        with sqlite3.connect(file) as opened:
            opened.execute("CREATE TABLE answers (number INTEGER)")
        opened.close()
    elif damage == "older":
        with sqlite3.connect(file) as opened:
            opened.execute("ALTER TABLE answers ADD COLUMN more TEXT")
        opened.close()
    else:
        changed = {
            "nothing of it": os.urandom(5000),
            "text": b"This is no database. " * 300,
            "header": b"\0" * 100 + data[100:],
            "cut": data[: len(data) // 2 // 4096 * 4096],
        }
        file.write_bytes(changed[damage])
    before = file.read_bytes()
    cache = ResponseCache(file)
    with pytest.warns(RuntimeWarning, match="set aside as answers.sqlite.aside-1, and a new one"):
        assert cache.get(key_of(1)) is None
    assert (tmp_path / "answers.sqlite.aside-1").read_bytes() == before
    assert cache.put(key_of(1), answer_of(1))
    assert ResponseCache(file).get(key_of(1)) == answer_of(1)
    assert not cache.off


def test_every_cut_gives_a_right_answer_or_none(tmp_path: Path) -> None:
    file = tmp_path / "whole.sqlite"
    filled(file, 60)
    data = file.read_bytes()
    for place in [*range(0, 600, 37), *range(600, len(data), 1511)]:
        cut = tmp_path / f"cut-{place}.sqlite"
        cut.write_bytes(data[:place])
        warnings_of_use(cut)
        assert is_whole(cut)


def test_changed_bytes_give_a_right_answer_or_none(tmp_path: Path) -> None:
    file = tmp_path / "whole.sqlite"
    filled(file, 60)
    data = bytearray(file.read_bytes())
    chosen = random.Random(1)
    damaged = 0
    for number in range(60):
        changed = bytearray(data)
        for _ in range(chosen.choice([1, 8, 64])):
            changed[chosen.randrange(len(data))] = chosen.randrange(256)
        path = tmp_path / f"changed-{number}.sqlite"
        path.write_bytes(changed)
        damaged += warnings_of_use(path) > 0
    assert damaged > 20


def test_damage_under_an_open_cache_is_met_by_all_who_have_it_open(tmp_path: Path) -> None:
    """Others go on with the new file; what they close of the old one harms it not."""
    file = tmp_path / "answers.sqlite"
    one, other = filled(file), ResponseCache(file)
    assert check(one, range(10)) == check(other, range(10)) == 10
    with sqlite3.connect(file) as writer:  # what others have read before counts no more
        writer.execute("INSERT INTO answers (hash, key, answer, checksum) VALUES (1, 1, 1, 1)")
    with file.open("r+b") as opened:
        opened.write(os.urandom(file.stat().st_size))
    with pytest.warns(RuntimeWarning, match="set aside"):
        check(one, range(300))
    assert one.put(key_of(1), answer_of(1))
    assert other.put(key_of(2), answer_of(2))
    other.close()
    assert one.put(key_of(3), answer_of(3))
    assert check(one, range(1, 4)) == check(ResponseCache(file), range(1, 4)) == 3
    assert len(list(tmp_path.glob("*.aside-*[0-9]"))) == 1
    writer.close()


def test_a_removed_file_is_made_again(tmp_path: Path) -> None:
    file = tmp_path / "answers.sqlite"
    cache = filled(file)
    assert cache.get(key_of(5)) == answer_of(5)
    for path in tmp_path.glob("answers.sqlite*"):
        path.unlink()
    assert cache.get(key_of(5)) is None
    assert cache.put(key_of(5), answer_of(5))
    assert ResponseCache(file).get(key_of(5)) == answer_of(5)


def test_a_full_disk_turns_it_off_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "answers.sqlite"
    worker = start(file, 0, 3000, "--most-bytes", str(200_000))
    out, error = worker.communicate(timeout=120)
    assert worker.returncode == 0, error
    *kept, last = out.splitlines()
    assert last == "off"
    assert 0 < len(kept) < 3000
    assert "answers.sqlite is off: " in error
    cache = ResponseCache(file)  # with room again, what was kept is there
    assert check(cache, range(len(kept))) == len(kept)
    assert cache.put(key_of(2999), answer_of(2999))


def test_a_database_that_may_not_grow_is_off(tmp_path: Path) -> None:
    """SQLite's own word for a full disk."""
    cache = filled(tmp_path / "answers.sqlite")
    assert cache.get(key_of(1)) == answer_of(1)
    connection = cache._database._connection()
    connection.execute("PRAGMA max_page_count = 1")
    with pytest.warns(RuntimeWarning, match="is off: database or disk is full"):
        stored = [cache.put(key_of(number), answer_of(1059)) for number in range(1000, 1500)]
    assert not stored[-1]
    assert cache.off
    assert cache.get(key_of(1)) is None
    assert not cache.put(key_of(1), answer_of(1))


@pytest.mark.parametrize("beside", ["no folder", "a folder"])
def test_a_place_that_cannot_be_written_turns_it_off(tmp_path: Path, beside: str) -> None:
    (tmp_path / "file").write_text("a file")
    file = tmp_path / "file" / "answers.sqlite" if beside == "no folder" else tmp_path
    cache = ResponseCache(file)
    with pytest.warns(RuntimeWarning, match="is off: "):
        stored = cache.put(key_of(1), answer_of(1))
    assert not stored
    assert cache.get(key_of(1)) is None
    assert cache.count() == 0
    cache.close()


def test_threads_share_one_cache(tmp_path: Path) -> None:
    cache = ResponseCache(tmp_path / "answers.sqlite")

    def write(first: int) -> None:
        for number in range(first, first + 100):
            cache.put(key_of(number), answer_of(number))

    threads = [threading.Thread(target=write, args=(100 * k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert check(cache, range(400)) == 400


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
def test_a_forked_child_opens_the_file_for_itself(tmp_path: Path) -> None:
    cache = filled(tmp_path / "answers.sqlite", 10)
    assert cache.get(key_of(1)) == answer_of(1)
    child = os.fork()
    if child == 0:
        cache.put(key_of(11), answer_of(11))
        cache.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert check(cache, range(12)) == 11
    assert cache.put(key_of(12), answer_of(12))
    assert check(ResponseCache(tmp_path / "answers.sqlite"), range(13)) == 12
