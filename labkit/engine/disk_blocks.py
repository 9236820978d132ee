"""The disk tier of the prefix cache: a file for each block, which survives restarts.

Evicted blocks wait in memory for a thread that writes them (write_behind.py), and are found there
too. A file is written whole or not at all, and carries a checksum and everything that its content
follows from. So several processes may share a folder, and none of them believes a file that is
damaged, or that was made from something else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

from labkit.base.fork import ForkedLock
from labkit.base.units import scaled
from labkit.engine.block_file import head_of, holds, parsed
from labkit.engine.write_behind import WriteBehind
from labkit.errors import ParameterError

_SUFFIX, _ASIDE = ".block", "set-aside"
_TRIM_TO = 0.9  # of the limit, so that not every file needs room to be made for it
_RESCAN = 256  # files written until other processes' are counted again
_ABANDONED = 3600.0  # seconds after which half a file has lost its process


@dataclass(frozen=True)
class BreakEven:
    """Whether reading keys and values from disk is faster than computing them.

    kv_bytes: of a token. prefill_rate: tokens a second that a prefill computes. read_rate: bytes a
    second that the disk reads. Raises ParameterError for what is not above 0.
    """

    kv_bytes: float
    prefill_rate: float
    read_rate: float

    def __post_init__(self) -> None:
        if not all(one > 0 for one in vars(self).values()):
            given = ", ".join(f"{name} {one}" for name, one in vars(self).items())
            raise ParameterError(f"{given}: allowed are numbers above 0.")

    @property
    def gain(self) -> float:
        """How many times as fast as computing reading is."""
        return self.read_rate / (self.kv_bytes * self.prefill_rate)

    def __str__(self) -> str:
        return (
            f"A token has {scaled(self.kv_bytes, 'B')} of keys and values. A prefill computes "
            f"{self.prefill_rate:,.0f} tokens a second. The disk, which reads "
            f"{scaled(self.read_rate, 'B/s')}, gives {self.read_rate / self.kv_bytes:,.0f} tokens "
            f"a second, {self.gain:.2g} times as many. It breaks even at "
            f"{scaled(self.kv_bytes * self.prefill_rate, 'B/s')}."
        )


def read_rate(folder: Path, nbytes: int = 2**26) -> float:
    """Bytes a second that a file of a folder is read with, after the system has forgotten it.

    Where the system cannot be told to forget it (not Linux), this is the rate of its memory.
    Raises OSError where the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(os.urandom(2**20) * -(-nbytes // 2**20))
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        begin = time.perf_counter()
        size = len(file.read())
        return size / (time.perf_counter() - begin)


class DiskBlocks:
    """Blocks of one layout in a folder; a `DiskTier` for `PrefixCache`.

    layout: BlockStore.layout of the cache. break_even: told, and asked whether the tier is worth
    it. limit: bytes of all files; the ones that were used longest ago go first. waiting: bytes that
    may wait in memory to be written. off: why the tier is not used (any more); None while it is.
    Then `get` finds nothing and `put` does nothing. A warning says so, on the thread of the next
    call. behind: what waits.
    """

    def __init__(
        self,
        folder: Path,
        layout: str,
        break_even: BreakEven,
        limit: int = 8 * 2**30,
        waiting: int = 2**27,
    ) -> None:
        self.folder = folder.absolute() / hashlib.sha256(layout.encode()).hexdigest()[:16]
        self.break_even, self.limit = break_even, limit
        self.off: str | None = None
        self.behind = WriteBehind(self._keep, waiting)
        self._layout = layout.encode()
        self._nbytes = self._written = 0
        self._files = ForkedLock()  # for what writes them, and counts them
        self._told = False
        if break_even.gain < 1:
            self._turn_off(f"it would be slower than computing. {break_even}")
            self._tell()
            return
        try:
            (self.folder / _ASIDE).mkdir(parents=True, exist_ok=True)
            self._tidy()
        except OSError as error:
            self._turn_off(f"{self.folder} cannot be used ({error.strerror})")
            self._tell()

    @property
    def nbytes(self) -> int:
        """Bytes of all files, as far as this process knows."""
        return self._nbytes

    def get(self, name: bytes, history: bytes) -> bytes | None:
        """The content that was put under a name with this history; None where there is none.

        A file that is damaged, or is no block of this layout, is set aside with a warning.
        """
        self._tell()
        if self.off is not None:
            return None
        if (waiting := self.behind.get(name, history)) is not None:
            return waiting
        path = self._path(name)
        try:
            with path.open("rb") as file:
                whole = file.read()
            found = parsed(whole, self._layout)
            if found is None:
                self._set_aside(path)
                return None
            with contextlib.suppress(OSError):  # a folder that may only be read gives blocks too
                os.utime(path)  # it was used now
        except FileNotFoundError:
            return None  # or another process has just made room
        except OSError as error:
            self._turn_off(f"{path} cannot be read ({error.strerror})")
            self._tell()
            return None
        return found[1] if found[0] == history else None

    def put(self, name: bytes, history: bytes, content: bytes | bytearray) -> None:
        """Keep a content under a name: the file is there when this returns. Where that fails, a
        full disk say, the tier is off."""
        self._keep(name, history, content)
        self._tell()

    def buffer(self, nbytes: int) -> bytearray:
        """As WriteBehind.buffer."""
        return self.behind.buffer(nbytes)

    def put_soon(self, name: bytes, history: bytes, content: bytes | bytearray) -> None:
        """Keep a content, which `get` finds from now on; the file comes later, if it is not lost
        before. Never waits for the disk."""
        self._tell()
        if self.off is None:
            self.behind.put(name, history, content)

    def flush(self) -> None:
        """Return when all that was put has its file."""
        self.behind.flush()
        self._tell()

    def damaged(self) -> list[Path]:
        """The files that are damaged or no blocks of this layout; reads all, and moves none."""
        files = sorted(self.folder.glob(f"*{_SUFFIX}"))
        return [path for path in files if parsed(path.read_bytes(), self._layout) is None]

    def _path(self, name: bytes) -> Path:
        return self.folder / f"{name.hex()}{_SUFFIX}"

    def _keep(self, name: bytes, history: bytes, content: bytes | bytearray) -> None:
        """Write a file on this thread, where it is not there already; tells nothing."""
        if self.off is not None:
            return
        path, content_size = self._path(name), len(content)
        try:
            with self._files:
                if holds(path, self._layout, history, content_size):
                    with contextlib.suppress(FileNotFoundError):  # another process made room
                        os.utime(path)  # as if it were written now
                        return
                head = head_of(self._layout, history, content)
                if len(head) + content_size <= self.limit:
                    self._make_room(len(head) + content_size)
                    self._write(path, head, content)
        except OSError as error:
            self._turn_off(f"{self.folder} cannot be written ({error.strerror})")

    def _write(self, path: Path, head: bytes, content: bytes | bytearray) -> None:
        """Write a file or leave the old one. Not forced to the disk: a file that a crash of the
        system cuts short has a wrong checksum."""
        handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=".")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(head)
                file.write(content)  # longer than the buffer: goes to the system as it is
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        self._nbytes += len(head) + len(content)
        self._written += 1

    def _set_aside(self, path: Path) -> None:
        to = self.folder / _ASIDE / path.name
        to.parent.mkdir(exist_ok=True)  # or the block would never be written again
        os.replace(path, to)
        warnings.warn(
            f"{path} is damaged or no block of this cache: moved to {to}, made again when needed.",
            RuntimeWarning,
            stacklevel=3,
        )

    def _turn_off(self, why: str) -> None:
        """On any thread."""
        self.off = f"The disk tier of the prefix cache is off: {why}."

    def _tell(self) -> None:
        """Say once that the tier is off, on the thread of its user."""
        if self.off is not None and not self._told:
            self._told = True
            warnings.warn(self.off, RuntimeWarning, stacklevel=3)

    def _tidy(self) -> None:
        """Count the files, and remove halves that a killed process left."""
        self._count()
        for path in self.folder.glob(".*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink()

    def _count(self) -> list[tuple[float, int, Path]]:
        """When each file was used last, its size and path; it counts them all."""
        found = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
        self._nbytes, self._written = sum(size for _, size, _ in found), 0
        return found

    def _make_room(self, needed: int) -> None:
        """Remove the files that were used longest ago, where one more would pass the limit."""
        if self._nbytes + needed <= self.limit and self._written < _RESCAN:
            return
        files = self._count()
        if self._nbytes + needed <= self.limit:
            return
        for _, size, path in sorted(files):
            if self._nbytes + needed <= self.limit * _TRIM_TO or self._nbytes == 0:
                return
            path.unlink(missing_ok=True)
            self._nbytes -= size
