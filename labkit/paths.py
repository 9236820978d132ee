"""Where things are kept, and how a file is written so that it is never half there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import platformdirs

from labkit.errors import LabkitError


def cache_dir() -> Path:
    """Where converted models, kernels and measured hardware are kept; $LABKIT_CACHE overrides.

    Raises LabkitError where the folder can neither be found nor made.
    """
    override = os.environ.get("LABKIT_CACHE")
    path = Path(override) if override else Path(platformdirs.user_cache_dir("labkit"))
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabkitError(
            f"{path} cannot be made ({error.strerror}): set LABKIT_CACHE to a folder to keep "
            "converted models in."
        ) from error
    return path


def project_root() -> Path:
    """The folder that holds notebooks/, labkit/ and outputs/."""
    return Path(__file__).resolve().parent.parent


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write all of a file or nothing: a reader, or a full disk, never leaves half of one."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
