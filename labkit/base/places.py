"""Places to write to, tried before anything is measured: a result must not be lost at its end."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from labkit.base.paths import atomic_write, cache_dir
from labkit.errors import LabkitError

_ROOM = 16 * 2**20  # bytes: the least that a disk must have left
_TRIAL = bytes(2**16)


class UnwritableError(LabkitError):
    """A file or a folder that cannot be written."""


def _refusal(what: str, path: Path, reason: str | None, remedy: str) -> UnwritableError:
    return UnwritableError(f"{what} {path} cannot be written ({reason or 'unknown'}): {remedy}.")


def try_folder(path: Path, what: str, remedy: str) -> Path:
    """Make a folder and write a trial file in it, which is removed.

    what, remedy: of the message. Raises UnwritableError for a file in the folder's place, a closed
    folder, and a disk that is full or has less than 16 MB left.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as trial:
            trial.write(_TRIAL)
            trial.flush()
            os.fsync(trial.fileno())
        left = shutil.disk_usage(path).free
    except (OSError, ValueError) as error:  # ValueError: half a character, or a zero byte
        raise _refusal(what, path, _reason(error), remedy) from None
    if left < _ROOM:
        raise _refusal(what, path, f"its disk has {left / 2**20:.0f} MB left", remedy)
    return path


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or " ".join(str(error).split())


def try_target(path: Path, what: str, remedy: str) -> None:
    """Raise UnwritableError where something that is no file lies in a file's place."""
    try:
        if os.path.lexists(path) and not path.is_file():
            reason = "Is a directory" if path.is_dir() else "it is no regular file"
            raise _refusal(what, path, reason, remedy)
    except (OSError, ValueError) as error:
        raise _refusal(what, path, _reason(error), remedy) from None


def try_file(path: Path, what: str, remedy: str) -> Path:
    """Try a file's folder, its name, and what lies in its place, as `try_folder` does."""
    try_folder(path.parent, f"the folder of {what}", remedy)
    try_target(path, what, remedy)
    try:  # a name that is too long is refused by the system, not by the folder
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-"):
            pass
    except (OSError, ValueError) as error:
        raise _refusal(what, path, _reason(error), remedy) from None
    return path


def write_result(path: Path, content: str | bytes, what: str, remedy: str) -> None:
    """Write what was measured; UnwritableError where that fails after all."""
    try:
        atomic_write(path, content)
    except OSError as error:
        raise _refusal(what, path, _reason(error), remedy) from None


def writable_cache() -> Path:
    """The cache folder, tried; UnwritableError where nothing can be kept there."""
    return try_folder(cache_dir(), "the folder", "set LABKIT_CACHE to another folder, or make room")
