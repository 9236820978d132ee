"""Folders that are made once and kept: converted models, rounded weights, compiled kernels.

Each carries what it was made from and a checksum of every file. One that is damaged, or was made
from something else, is made again, with a word.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SEAL = "kept.json"
_CHUNK = 2**24  # bytes


def keep(folder: Path, made_from: str, make: Callable[[Path], None]) -> Path:
    """The folder, as it was kept; else what make(folder to write to) writes now, all or nothing.

    made_from: everything that the content follows from. Raises what `make` raises, and OSError
    where the folder cannot be written; then nothing is left behind.
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
        if not is_whole(folder, made_from):  # else another process was faster
            shutil.rmtree(folder, ignore_errors=True)
            work.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def is_whole(folder: Path, made_from: str) -> bool:
    """Whether a folder was made from this and holds what was written to it.

    A file of another time than when it was written is compared by its checksum.
    """
    try:
        seal = json.loads((folder / _SEAL).read_text(encoding="utf-8"))
        if seal["made_from"] != made_from:
            return False
        return all(_unchanged(folder / name, made) for name, made in seal["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _unchanged(file: Path, made: dict[str, Any]) -> bool:
    stat = file.stat()
    if stat.st_size != made["size"]:
        return False
    return stat.st_mtime_ns == made["time"] or checksum(file) == made["checksum"]


def _seal(folder: Path, made_from: str) -> None:
    files = {
        str(file.relative_to(folder)): {
            "size": file.stat().st_size,
            "time": file.stat().st_mtime_ns,
            "checksum": checksum(file),
        }
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != _SEAL
    }
    text = json.dumps({"made_from": made_from, "files": files})
    (folder / _SEAL).write_text(text, encoding="utf-8")


def checksum(file: Path) -> int:
    """CRC-32 of a file."""
    found = 0
    with file.open("rb") as opened:
        while part := opened.read(_CHUNK):
            found = zlib.crc32(part, found)
    return found
