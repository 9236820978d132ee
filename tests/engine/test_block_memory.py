"""The memory of blocks that wait to be written is used again, and by nobody too early."""

from __future__ import annotations

import pytest

from labkit.engine.write_behind import WriteBehind
from tests.engine.test_disk_blocks import HISTORY, NAME
from tests.engine.test_write_behind import LONG, Slow, slow

__all__ = ["slow"]


def test_the_memory_of_a_block_is_used_again_once_nobody_reads_it(slow: Slow) -> None:
    behind = WriteBehind(slow, 1000)
    first = behind.buffer(4)
    first[:] = b"abcd"
    behind.put(NAME, HISTORY, first)
    assert slow.began.wait(LONG)
    behind.put(NAME, HISTORY, b"other")  # the first is being written still
    second = behind.buffer(4)
    assert second is not first
    second[:] = b"efgh"
    behind.put(b"m" * 32, HISTORY, second)
    found = behind.get(b"m" * 32, HISTORY)
    slow.may.set()
    behind.flush()
    again = {id(behind.buffer(4)), id(behind.buffer(4))}
    assert again == {id(first), id(second)}
    second[:] = b"----"
    assert found == b"efgh"


def test_the_thread_keeps_its_pace_and_hurries_only_for_who_waits() -> None:
    """With no share of a core it may write one block; `flush` writes the rest."""
    written: list[bytes] = []

    def write(name: bytes, history: bytes, content: bytes | bytearray) -> None:
        sum(range(10_000))  # takes some time, so that there is a pause after it
        written.append(name)

    behind = WriteBehind(write, 1000, pace=1e-9)
    names = [bytes([number]) * 32 for number in range(5)]
    for name in names:
        behind.put(name, HISTORY, b"content")
    while not written:
        pass
    assert written == names[:1]
    assert behind.get(names[4], HISTORY) == b"content"
    behind.flush()
    assert written == names


@pytest.mark.usefixtures("no_threads")
def test_who_writes_without_a_thread_does_not_pause() -> None:
    written: list[bytes] = []
    behind = WriteBehind(lambda name, *_: written.append(name), 1000, pace=1e-9)
    behind.put(NAME, HISTORY, b"content")
    behind.put(b"m" * 32, HISTORY, b"content")
    assert written == [NAME, b"m" * 32]
