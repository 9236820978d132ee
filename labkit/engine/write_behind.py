"""Blocks that are to be written, and the thread that writes them while others go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from labkit.base.fork import renew_in_children

_SPARE = 2**24  # bytes that are kept for blocks to come
_PACE = 0.01  # of a core's time, which the passes of an engine need themselves
_LOOK = 0.1  # seconds after which one who waits looks whether the thread still lives


class Waiting(NamedTuple):
    """A block that is not written yet. history, content: as DiskTier has them."""

    history: bytes
    content: bytes | bytearray

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return len(self.history) + len(self.content)


class WriteBehind:
    """A bounded queue of blocks, and one thread that writes them in the order of being put.

    write: gets name, history and content, on that thread, and keeps no reference to them. limit:
    bytes that may wait. Where they would be more, the blocks that were put first are dropped: of a
    prefix that is evicted these are the last ones, and the others are of use without them.

    pace: the share of a core's time that the thread takes, unless somebody waits in `flush`. So
    requests that go on without a break are hardly slower for being written; what is more than the
    queue holds is dropped, and a pause gives the time to write the rest.

    The thread lives while there is something to write, and the interpreter waits for it at its end:
    a process that ends by itself has written everything. busy: processor seconds that it took so
    far. dropped: blocks.
    """

    def __init__(
        self,
        write: Callable[[bytes, bytes, bytes | bytearray], None],
        limit: int,
        pace: float = _PACE,
    ) -> None:
        self.limit, self.pace = limit, pace
        self.busy, self.dropped = 0.0, 0
        self._write = write
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Let nothing wait: in a forked child, for what waits there is written by its parent."""
        self._waiting: dict[bytes, Waiting] = {}  # by name, in the order of being put
        self._current: bytes | None = None  # the name of the one that is being written
        self._flushing = 0  # calls that wait
        self._nbytes = 0
        self._spare: list[bytearray] = []
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()

    @property
    def nbytes(self) -> int:
        """Bytes that wait, those that are being written included."""
        return self._nbytes

    def buffer(self, nbytes: int) -> bytearray:
        """Memory for the content of a block to `put`, whose bytes may be of an earlier one.

        Fresh memory costs several times the copy into it, for the system maps each page anew.
        """
        with self._changed:
            if self._spare and len(self._spare[-1]) == nbytes:
                return self._spare.pop()
            self._spare.clear()
        return bytearray(nbytes)

    def put(self, name: bytes, history: bytes, content: bytes | bytearray) -> None:
        """Have a block written soon. Never waits for the disk.

        A bytearray belongs to the queue from now on: once written, `buffer` gives it out again.
        """
        new = Waiting(history, content)
        with self._changed:
            self._forget(name)
            if not self._make_room(new.nbytes):
                self.dropped += 1
                return
            self._waiting[name] = new
            self._nbytes += new.nbytes
        self._have_written()

    def get(self, name: bytes, history: bytes) -> bytes | None:
        """The content of a block that waits, or is being written; None where there is none."""
        with self._changed:
            found = self._waiting.get(name)
            if found is None or found.history != history:
                return None
            return bytes(found.content)  # a copy: its memory is used again

    def flush(self) -> None:
        """Return when nothing waits."""
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()
        try:
            while self._waiting:
                self._have_written()
                with self._changed:
                    if self._waiting:
                        self._changed.wait(_LOOK)
        finally:
            with self._changed:
                self._flushing -= 1

    def _make_room(self, needed: int) -> bool:
        """Drop blocks that nobody writes yet until so many bytes fit; whether they do."""
        while self._nbytes + needed > self.limit:
            others = (name for name in self._waiting if name != self._current)
            if (first := next(others, None)) is None:
                return False
            self._forget(first)
            self.dropped += 1
        return True

    def _forget(self, name: bytes) -> None:
        if (old := self._waiting.pop(name, None)) is not None:
            self._nbytes -= old.nbytes
            if name != self._current:
                self._reuse(old.content)

    def _reuse(self, content: bytes | bytearray) -> None:
        """Give out again what nobody reads any more."""
        if isinstance(content, bytearray) and len(content) * (len(self._spare) + 1) <= _SPARE:
            self._spare.append(content)

    def _have_written(self) -> None:
        """See to it that there is a thread."""
        with self._changed:
            if self._thread is not None and (self._thread.is_alive() or not self._thread.ident):
                return  # it goes on, or another is just about to start it
            self._thread = thread = threading.Thread(
                target=self._run,
                name="blocks to disk",
                daemon=False,  # also where a daemon puts blocks
            )
        try:
            thread.start()
        except RuntimeError:  # the interpreter ends, or the system gives no more threads
            self._run(paced=False)  # whoever puts a block does not wait

    def _run(self, paced: bool = True) -> None:
        try:
            while (found := self._next()) is not None:
                name, waiting = found
                began = time.thread_time()
                try:
                    self._write(name, *waiting)
                finally:
                    busy = time.thread_time() - began
                    self._done(name, waiting, busy)
                if paced:
                    self._pause(busy / self.pace - busy)
        except BaseException:
            self._thread = None  # the next block that is put starts another
            raise

    def _pause(self, seconds: float) -> None:
        """Wait, unless somebody waits for what is written, or the process ends."""
        until = time.monotonic() + seconds
        with self._changed:
            while (left := until - time.monotonic()) > 0:
                if self._flushing or not threading.main_thread().is_alive():
                    return
                self._changed.wait(min(left, _LOOK))

    def _next(self) -> tuple[bytes, Waiting] | None:
        """What to write. It stays where `get` finds it until it is written."""
        with self._changed:
            found = next(iter(self._waiting.items()), None)
            if found is None:
                self._thread = None  # a block that is put from now on starts another
            else:
                self._current = found[0]
            return found

    def _done(self, name: bytes, waiting: Waiting, busy: float) -> None:
        with self._changed:
            self._current, self.busy = None, self.busy + busy
            if self._waiting.get(name) is waiting:  # no other has come under this name
                self._forget(name)
            else:
                self._reuse(waiting.content)
            self._changed.notify_all()
