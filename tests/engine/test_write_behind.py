"""Blocks that wait to be written: found, bounded, lost only where nothing was promised."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit.base.paths import project_root
from labkit.engine.batching import BatchEngine
from labkit.engine.disk_blocks import DiskBlocks
from labkit.engine.prefix import PrefixCache
from labkit.engine.prefix_key import PrefixKey
from labkit.engine.write_behind import WriteBehind
from labkit.model.cache.paged import PagedCache
from tests.engine.served_helpers import Ask, Judge, check, finish, prompt
from tests.engine.test_disk_blocks import FASTER, HISTORY, NAME, file_of, opened

LONG = 60  # seconds after which a test that hangs fails


class Slow:
    """What a queue writes to: it goes on only when it may."""

    def __init__(self) -> None:
        self.may, self.began = threading.Event(), threading.Event()
        self.written: list[bytes] = []

    def __call__(self, name: bytes, history: bytes, content: bytes | bytearray) -> None:
        self.began.set()
        assert self.may.wait(LONG)
        self.written.append(name)


@pytest.fixture
def slow() -> Iterator[Slow]:
    made = Slow()
    yield made
    made.may.set()


def names(count: int) -> list[bytes]:
    return [bytes([number]) * 32 for number in range(count)]


def test_a_block_is_found_until_it_is_written(slow: Slow) -> None:
    behind = WriteBehind(slow, 1000)
    behind.put(NAME, HISTORY, b"content")
    assert slow.began.wait(LONG)
    assert behind.get(NAME, HISTORY) == b"content"
    assert behind.get(NAME, b"other tokens") is None
    assert behind.get(b"m" * 32, HISTORY) is None
    assert behind.nbytes == len(HISTORY) + len(b"content")
    slow.may.set()
    behind.flush()
    assert behind.get(NAME, HISTORY) is None
    assert (slow.written, behind.nbytes, behind.dropped) == ([NAME], 0, 0)


def test_what_waits_is_bounded_and_the_first_are_dropped(slow: Slow) -> None:
    behind = WriteBehind(slow, 250)
    first, *others = names(6)
    behind.put(first, b"", bytes(50))
    assert slow.began.wait(LONG)
    for name in others:
        behind.put(name, b"", bytes(100))
        assert behind.nbytes <= 250
    assert behind.get(first, b"") is not None  # it is being written
    assert [behind.get(name, b"") is not None for name in others] == [False] * 3 + [True] * 2
    behind.put(NAME, b"", bytes(201))  # does not fit beside the one that is being written
    assert behind.get(NAME, b"") is None
    slow.may.set()
    behind.flush()
    assert slow.written[0] == first
    assert behind.dropped == 6


def test_another_content_under_the_name_is_written_after_the_first(slow: Slow) -> None:
    behind = WriteBehind(slow, 1000)
    behind.put(NAME, HISTORY, b"content")
    assert slow.began.wait(LONG)
    behind.put(NAME, b"other tokens", b"other")
    assert behind.get(NAME, b"other tokens") == b"other"
    slow.may.set()
    behind.flush()
    assert slow.written == [NAME, NAME]
    assert behind.nbytes == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_writer_that_fails_does_not_stop_the_others() -> None:
    written = []

    def write(name: bytes, history: bytes, content: bytes | bytearray) -> None:
        if name == NAME:
            raise ZeroDivisionError
        written.append(name)

    behind = WriteBehind(write, 1000)
    for name in (NAME, *names(3)):
        behind.put(name, HISTORY, b"content")
    behind.flush()
    assert (written, behind.nbytes) == (names(3), 0)


def test_no_thread_is_left_when_nothing_waits(slow: Slow) -> None:
    slow.may.set()
    behind = WriteBehind(slow, 1000)
    for name in names(20):
        behind.put(name, b"", b"content")
        if name[0] % 3 == 0:
            behind.flush()
    behind.flush()
    for thread in threading.enumerate():
        if thread.name == "blocks to disk":
            thread.join(LONG)
            assert not thread.is_alive()
    assert slow.written == names(20)


@pytest.mark.usefixtures("no_threads")
def test_where_no_thread_can_be_had_the_caller_writes(slow: Slow) -> None:
    slow.may.set()
    behind = WriteBehind(slow, 1000)
    for name in names(2):
        behind.put(name, b"", b"content")
    behind.flush()
    assert slow.written == names(2)


def blocked(tier: DiskBlocks, slow: Slow) -> DiskBlocks:
    """A tier whose disk answers only when it may."""
    keep = tier._keep

    def write(name: bytes, history: bytes, content: bytes | bytearray) -> None:
        slow(name, history, content)
        keep(name, history, content)

    tier.behind = WriteBehind(write, tier.behind.limit)
    return tier


def test_a_tier_finds_what_has_no_file_yet(tmp_path: Path, slow: Slow) -> None:
    tier = blocked(opened(tmp_path), slow)
    tier.put_soon(NAME, HISTORY, b"content")
    assert tier.get(NAME, HISTORY) == b"content"
    assert not file_of(tier).exists()
    slow.may.set()
    tier.flush()
    assert file_of(tier).exists()
    assert tier.get(NAME, HISTORY) == opened(tmp_path).get(NAME, HISTORY) == b"content"


def test_a_block_that_has_its_file_is_not_written_again(tmp_path: Path) -> None:
    tier, other = opened(tmp_path), opened(tmp_path)
    tier.put(NAME, HISTORY, b"content")
    before = file_of(tier).stat()
    os.utime(file_of(tier), (0, 0))
    other.put(NAME, HISTORY, b"content")
    after = file_of(tier).stat()
    assert after.st_ino == before.st_ino
    assert after.st_mtime > 0  # it was used now
    other.put(NAME, HISTORY, b"longer content")
    assert tier.get(NAME, HISTORY) == b"longer content"


def test_a_disk_that_is_full_in_the_background_is_told_at_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = opened(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("labkit.engine.disk_blocks.os.replace", full)
    for name in names(5):
        tier.behind.put(name, HISTORY, b"content")
    tier.behind.flush()
    with pytest.warns(RuntimeWarning, match="is off: .* cannot be written .No space left"):
        assert tier.get(NAME, HISTORY) is None
    tier.put_soon(NAME, HISTORY, b"content")  # nothing waits for a tier that is off
    assert tier.behind.nbytes == 0
    assert [path.name for path in tier.folder.glob("*")] == ["set-aside"]


BLOCK, BLOCKS = 16, 8


def served(judge: Judge, tier: Any, asks: list[Ask]) -> PrefixCache:
    """An engine whose memory holds one request: each evicts the blocks of the one before."""

    def prefixes(cache: PagedCache) -> PrefixCache:
        return PrefixCache(cache, PrefixKey("tiny", "0"), tier(cache.store.layout))

    engine = BatchEngine(judge.decoder, 1, BLOCKS, prefix=prefixes)
    assert engine.prefix is not None
    for ask in asks:
        one = judge.submit(engine, ask)
        finish(engine)
        judge.check(one)
        check(engine)
        engine.prefix.check()
        book = engine.cache.book
        assert book.free + book.held + book.cached == book.total == BLOCKS
    return engine.prefix


def test_a_disk_that_does_not_answer_delays_no_step(
    judge: Judge, tmp_path: Path, slow: Slow
) -> None:
    """Requests are served to their end, and hit blocks that were evicted but never written."""
    asks = [Ask(prompt(seed, 100), 4) for seed in (1, 2)]
    prefix = served(
        judge, lambda layout: blocked(DiskBlocks(tmp_path, layout, FASTER), slow), asks + asks
    )
    assert slow.began.wait(LONG)
    assert slow.written == []
    assert prefix.counts.from_disk >= 2 * 5 * BLOCK
    assert list(tmp_path.glob("*/*.block")) == []
    slow.may.set()
    prefix.flush()
    assert len(list(tmp_path.glob("*/*.block"))) >= 10


def test_blocks_that_were_dropped_are_computed_again(
    judge: Judge, tmp_path: Path, slow: Slow
) -> None:
    """A queue that is too small for a prefix keeps the blocks that come first in it."""
    block = BatchEngine(judge.decoder, 1, 1).cache.store.read_block(0)

    def tier(layout: str) -> DiskBlocks:
        room = 4 * (len(block) + 1000)
        return blocked(DiskBlocks(tmp_path, layout, FASTER, waiting=room), slow)

    one, other = (Ask(prompt(seed, 100), 4) for seed in (1, 2))
    prefix = served(judge, tier, [one, other, one])
    assert 2 * BLOCK <= prefix.counts.from_disk < 6 * BLOCK
    assert isinstance(prefix.disk, DiskBlocks)
    assert prefix.disk.behind.dropped > 0


PROCESS = """
import sys, time
from pathlib import Path
from tests.engine.test_disk_blocks import HISTORY, opened
tier = opened(Path(sys.argv[1]))
keep, stop = tier._keep, int(sys.argv[2])
def write(name, history, content):
    if name[0] == stop:
        print("waits", flush=True)
        time.sleep(600)
    keep(name, history, content)
tier.behind._write = write
for number in range(20):
    tier.put_soon(bytes([number]) * 32, HISTORY, bytes([number]) * 20000)
"""


def process(folder: Path, stop: int) -> subprocess.Popen[str]:
    """Queues 20 blocks and ends. stop: the number of the block whose disk does not answer."""
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, folder, str(stop)],
        env=os.environ | {"PYTHONPATH": str(project_root())}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_process_that_ends_has_written_what_waited(tmp_path: Path) -> None:
    assert process(tmp_path, stop=255).wait(LONG) == 0
    tier = opened(tmp_path)
    assert [tier.get(name, HISTORY) for name in names(20)] == [
        name[:1] * 20000 for name in names(20)
    ]


def test_a_process_that_is_killed_loses_only_what_waited(tmp_path: Path) -> None:
    killed = process(tmp_path, stop=7)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "waits\n"
    killed.kill()
    killed.wait()
    tier = opened(tmp_path)
    found = [tier.get(name, HISTORY) for name in names(20)]
    assert found == [name[:1] * 20000 for name in names(7)] + [None] * 13
    assert tier.damaged() == []
