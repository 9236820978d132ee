"""Folders that are made once and kept: converted models, rounded weights, compiled kernels.

Each carries a seal: what it was made from, and size, times and checksum of every file. A folder
whose seal does not hold is made again, with a word.

What the seal tells: a file is taken unread where its size and both its times are those of when it
was written. The system sets one of them, that of the last change (ctime), and no program can set it
back. So whatever writes to a file is seen. A disk that loses bits by itself is not: to compute
checksums at each load would take longer than the load (CRC-32: about 0.7 GB/s on one core). A file
of other times, as in a copied cache, is read once and compared by its checksum.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from labkit.base.paths import atomic_write

_SEAL = "kept.json"
_CHUNK = 2**24  # bytes
_LONGEST = 80  # bytes of a folder's name before its key
_SAMPLES, _SAMPLE = 64, 2**12  # of a source: how many stretches are read, and their bytes


def folder_name(what: str, key: str) -> str:
    """The name of a kept folder: what it holds, cut where it is long, and its key.

    A file system takes 255 bytes, and the folder that is written to first has a longer name. What
    is no UTF-8 is replaced: not every library takes such a path.
    """
    text = os.fsencode(what).decode("utf-8", "replace")
    return f"{text.encode()[:_LONGEST].decode('utf-8', 'ignore')}-{key}"


def stamp(source: Path) -> str:
    """What a file is recognized by: size, time of writing and of the last change, and a checksum of
    up to 64 stretches of 4 kB that lie evenly spread in it.

    A file with other bytes but the same size and time of writing has another time of change, or it
    lies on a file system without one; there it is recognized where a stretch differs. Raises
    OSError.
    """
    with source.open("rb") as file:
        stat = os.fstat(file.fileno())
        last = max(0, stat.st_size - _SAMPLE)
        found = 0
        for at in sorted({last * i // (_SAMPLES - 1) for i in range(_SAMPLES)}):
            file.seek(at)
            found = zlib.crc32(file.read(_SAMPLE), found)
    return f"{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}|{found}"


def keep(folder: Path, made_from: str, make: Callable[[Path], None]) -> Path:
    """The folder, as it was kept; else what make(folder to write to) writes now, all or nothing.

    made_from: everything that the content follows from. Where several processes make the same
    folder, the first that is ready puts its own there, and the others take it. Raises what `make`
    raises, and OSError where the folder cannot be written; then nothing is left behind.
    """
    if is_whole(folder, made_from):
        return folder
    if folder.exists():
        print(f"{folder} is damaged, or was made from something else: made again.", flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        make(work)
        _seal(work, made_from)
        _put(work, folder, made_from)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _put(work: Path, folder: Path, made_from: str) -> None:
    """Move a folder to its place, unless a whole one is there: another process may be reading it.

    What is not whole is moved aside first. Where there are locks, no other process can put a whole
    one there in between.
    """
    with _locked(folder.parent):
        for _ in range(3):
            if is_whole(folder, made_from):
                return
            try:
                work.replace(folder)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            with suppress(FileNotFoundError):
                folder.replace(aside / folder.name)
            shutil.rmtree(aside, ignore_errors=True)
        work.replace(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Within the block this process alone changes what lies in a folder, where the system and the
    file system have locks. A lock ends with its process."""
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def is_whole(folder: Path, made_from: str) -> bool:
    """Whether a folder was made from this and holds what was written to it.

    A file of other times than when it was written is compared by its checksum. Where it is the
    same, the seal gets the new times, if it can be written.
    """
    try:
        seal = json.loads((folder / _SEAL).read_text(encoding="utf-8"))
        files = seal["files"]
        if seal["made_from"] != made_from or seal["mark"] != _mark(made_from, files) or not files:
            return False
        now = {name: _compared(folder / name, made) for name, made in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    if None in now.values():
        return False
    if now != files:
        with suppress(OSError):
            _write_seal(folder, made_from, now)
    return True


def _compared(file: Path, made: dict[str, Any]) -> dict[str, Any] | None:
    """What a seal says of a file that is as it was written; None for one that is not."""
    now = _times(file)
    if now == {name: made[name] for name in now}:
        return made
    same = now["size"] == made["size"] and checksum(file) == made["checksum"]
    return {**now, "checksum": made["checksum"]} if same else None


def _times(file: Path) -> dict[str, int]:
    stat = file.stat()
    return {"size": stat.st_size, "time": stat.st_mtime_ns, "changed": stat.st_ctime_ns}


def _seal(folder: Path, made_from: str) -> None:
    files = {
        str(file.relative_to(folder)): {**_times(file), "checksum": checksum(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != _SEAL
    }
    _write_seal(folder, made_from, files)


def _write_seal(folder: Path, made_from: str, files: dict[str, Any]) -> None:
    seal = {"made_from": made_from, "files": files, "mark": _mark(made_from, files)}
    atomic_write(folder / _SEAL, json.dumps(seal))


def _mark(made_from: str, files: dict[str, Any]) -> int:
    """A checksum of the seal itself: it names all files that there have to be."""
    return zlib.crc32(json.dumps([made_from, files], sort_keys=True).encode())


def checksum(file: Path) -> int:
    """CRC-32 of a file."""
    found = 0
    with file.open("rb") as opened:
        while part := opened.read(_CHUNK):
            found = zlib.crc32(part, found)
    return found
