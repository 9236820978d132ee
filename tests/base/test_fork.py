"""What a forked child can use though another thread of its parent was using it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from labkit.base.fork import ForkedLock
from labkit.engine.responses import ResponseCache
from tests.engine.response_worker import answer_of, key_of
from tests.engine.test_disk_blocks import HISTORY, NAME, opened

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
LONG = 30  # seconds after which a child that waits for ever is ended


def forked(lock: AbstractContextManager[object], work: Callable[[], bool]) -> int:
    """The exit status of a child that does some work, forked while another thread holds a lock."""
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            assert go.wait(2 * LONG)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(LONG)
    child = os.fork()
    if child == 0:
        signal.alarm(LONG)
        os._exit(0 if work() else 1)
    try:
        return os.waitpid(child, 0)[1]
    finally:
        go.set()
        holder.join()


def test_a_child_finds_a_lock_free_that_another_thread_held() -> None:
    lock = ForkedLock()

    def twice() -> bool:
        with lock, lock:
            return True

    assert forked(lock, twice) == 0
    assert twice()


@pytest.mark.parametrize("which", ["cache", "database"])
def test_a_child_uses_a_response_cache(tmp_path: Path, which: str) -> None:
    """It waited for ever: the thread that held the lock is none of the child's."""
    cache = ResponseCache(tmp_path / "answers.sqlite")
    assert cache.put(key_of(1), answer_of(1))
    lock = cache._lock if which == "cache" else cache._database._lock

    def used() -> bool:
        return cache.get(key_of(1)) == answer_of(1) and cache.put(key_of(2), answer_of(2))

    assert forked(lock, used) == 0
    assert cache.get(key_of(2)) == answer_of(2)


@pytest.mark.parametrize("which", ["queue", "files"])
def test_a_child_uses_a_disk_tier(tmp_path: Path, which: str) -> None:
    tier = opened(tmp_path)
    tier.put(NAME, HISTORY, b"content")
    lock = tier.behind._changed if which == "queue" else tier._files

    def used() -> bool:
        tier.put_soon(b"m" * 32, HISTORY, b"more")
        tier.flush()
        return tier.get(NAME, HISTORY) == b"content" and tier.off is None

    assert forked(lock, used) == 0
    assert tier.get(b"m" * 32, HISTORY) == b"more"
