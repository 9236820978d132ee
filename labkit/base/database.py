"""An SQLite file as a cache: several processes at once, and never a reason to stop.

A file that is damaged, cut off or from something else is set aside with a warning, and a new one is
made. A full disk, or a folder that cannot be written, turns it off with a warning. SQLite's
write-ahead log keeps it whole when a writer is killed (sqlite.org/wal.html).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from labkit.base.fork import ForkedLock

_PATIENCE = 0.05  # seconds that a statement waits for another process: no request waits longer
_OPENING = 30.0  # seconds that opening waits for a process that makes the file again
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_NO_ROOM = (
    sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_NOLFS,
)  # fmt: skip
_DAMAGE = (
    sqlite3.SQLITE_ERROR, sqlite3.SQLITE_INTERNAL, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG,
)  # fmt: skip
_BESIDE = ("", "-wal", "-shm", "-journal")  # SQLite's own files beside the database


class Busy(Exception):
    """Another process writes just now, and took longer than a statement waits."""


class _Damaged(Exception):
    """The file is not a whole database of ours."""


class Database:
    """One table in a file. `off`: why it is not used any more; empty while it is.

    application: a number that marks the file as ours. table: the one CREATE TABLE statement. After
    a fork, the child opens the file for itself. Several threads may use it.
    """

    def __init__(self, path: Path, application: int, table: str) -> None:
        self.path, self.off = path.absolute(), ""  # also after a change of the folder
        self._application, self._table = application, table
        self._lock = ForkedLock()
        self._open: sqlite3.Connection | None = None
        self._inode = self._process = 0
        self._inherited: list[sqlite3.Connection] = []  # of the parent: closing would disturb it

    def run(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> list[tuple[Any, ...]]:
        """Run statements as one transaction, and return the rows of the last one.

        Where the file is damaged it is made again, and they run on the new one. None run, and no
        rows come, while it is off. Raises Busy; then none has run.
        """
        with self._lock:
            for _ in range(3):
                if self.off:
                    break
                try:
                    return self._transaction(self._connection(), statements)
                except (sqlite3.Error, _Damaged, OSError) as error:
                    self._meet(error)
            else:
                self._turn_off("it is damaged again and again")
            return []

    def close(self) -> None:
        """Close the file; the next statement opens it again."""
        with self._lock:
            if self._open is not None and self._process == os.getpid():
                with contextlib.suppress(sqlite3.Error):
                    self._open.close()
            self._open = None

    @staticmethod
    def _transaction(
        connection: sqlite3.Connection, statements: Sequence[tuple[str, Sequence[Any]]]
    ) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        if len(statements) == 1:
            return connection.execute(*statements[0]).fetchall()
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement, values in statements:
                rows = connection.execute(statement, values).fetchall()
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # a full disk rolls back of itself
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            raise
        return rows

    def _meet(self, error: Exception) -> None:
        """Go on after an error: raise Busy, set the file aside, or turn off."""
        code = getattr(error, "sqlite_errorcode", 0)
        if code & 0xFF in _BUSY:
            raise Busy(str(error)) from error
        damaged, known = _is_damage(error), self._open is not None
        self.close()
        if damaged and known:
            self._made_again(error)
        elif damaged or isinstance(error, OSError) or code & 0xFF in _NO_ROOM:
            self._turn_off(str(error))
        else:
            raise error

    def _made_again(self, error: Exception) -> None:
        """Set the file aside, unless another process has done so; the next statement makes it."""
        try:
            with self._alone():
                if _inode(self.path) == self._inode:
                    self._set_aside(error)
        except OSError as failed:
            self._turn_off(str(failed))

    def _turn_off(self, why: str) -> None:
        self.close()
        self.off = why
        message = f"the cache {self.path} is off: {why}. Answers are right without it, and slower."
        warnings.warn(message, RuntimeWarning, stacklevel=2)

    def _connection(self) -> sqlite3.Connection:
        """The open connection; opened again after a fork, and where the file is another one now."""
        if self._open is not None and self._process != os.getpid():
            self._inherited.append(self._open)
            self._open = None
        if self._open is not None and self._inode == _inode(self.path):
            return self._open
        self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._alone():
            try:
                opened = self._checked()
            except (sqlite3.Error, _Damaged) as error:
                if not _is_damage(error):
                    raise
                self._set_aside(error)
                opened = self._checked()
            self._inode = _inode(self.path)
        self._open, self._process = opened, os.getpid()
        return opened

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """While one process opens the file or makes it again, the others wait."""
        try:
            with FileLock(f"{self.path}.lock", timeout=_OPENING):
                yield
        except Timeout as error:
            raise OSError(f"another process holds {error.lock_file}") from error

    def _checked(self) -> sqlite3.Connection:
        """Open the file, as it is if it is whole and ours, or as a new one if it is empty."""
        opened = sqlite3.connect(
            self.path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
        )
        try:
            if opened.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
                opened.execute(f"PRAGMA application_id = {self._application}")
                opened.execute(self._table)
            self._check(opened)
        except BaseException:
            opened.close()
            raise
        return opened

    def _check(self, opened: sqlite3.Connection) -> None:
        """Raise where the file is not ours, before anything is written to it, or not whole."""
        if opened.execute("PRAGMA application_id").fetchone() != (self._application,):
            raise _Damaged("it is a database of something else")
        tables = opened.execute("SELECT sql FROM sqlite_master WHERE type = 'table'").fetchall()
        if tables != [(self._table,)]:
            raise _Damaged("its table is of another version")
        for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "cell_size_check = ON"):
            opened.execute(f"PRAGMA {pragma}").fetchall()
        if (found := opened.execute("PRAGMA quick_check(1)").fetchone()) != ("ok",):
            raise _Damaged(str(found[0]).splitlines()[0])

    def _set_aside(self, error: Exception) -> None:
        aside = _set_aside(self.path)
        warnings.warn(
            f"the cache {self.path} is damaged or foreign ({error}): it was set aside as "
            f"{aside.name}, and a new one is made.",
            RuntimeWarning,
            stacklevel=2,
        )


def _is_damage(error: Exception) -> bool:
    """Whether an error says that the file is not a whole one of ours."""
    code = getattr(error, "sqlite_errorcode", 0)
    cut_off = code == sqlite3.SQLITE_IOERR_SHORT_READ
    return isinstance(error, _Damaged) or cut_off or code & 0xFF in _DAMAGE


def _inode(path: Path) -> int:
    """The number of a file, by which another one of its name is known; 0 where there is none."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def _set_aside(path: Path) -> Path:
    """Rename a database and the files beside it to the first free name."""
    number = 1
    while (aside := path.with_name(f"{path.name}.aside-{number}")).exists():
        number += 1
    for beside in _BESIDE:
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + beside).rename(aside.with_name(aside.name + beside))
    return aside
