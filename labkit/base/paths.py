"""Where things are kept, and how to write a file so that no half of it is ever seen."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import platformdirs

from labkit.errors import LabkitError

_DEEPEST = 50  # levels of a JSON file; ours have fewer than ten


def cache_dir() -> Path:
    """The folder for converted models, kernels and measured hardware.

    LABKIT_CACHE names another one. Raises LabkitError where the folder cannot be made.
    """
    override = os.environ.get("LABKIT_CACHE")
    path = Path(override) if override else Path(platformdirs.user_cache_dir("labkit"))
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabkitError(
            f"the folder {path} cannot be made ({error.strerror}). Set LABKIT_CACHE to a folder "
            "that can be written, for converted models and measurements."
        ) from error
    return path


def project_root() -> Path:
    """The folder that holds notebooks/, labkit/ and outputs/."""
    return Path(__file__).resolve().parent.parent.parent


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a whole file or leave the old one: nobody reads half of it, even on a full disk.

    Text is written as UTF-8; folders on the way are made. Raises OSError where it cannot be
    written.
    """
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


def json_in(path: Path) -> Any:
    """What a JSON file holds, however hostile: it can be taken apart without surprise.

    Raises ValueError, in one line, where it cannot be read, is no UTF-8 or no JSON, holds a number
    that no float holds, or is nested too deep.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text, parse_float=_finite(float), parse_int=_finite(int))
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is no JSON ({error}).") from None
    level = [found]
    for _ in range(_DEEPEST):
        level = [inner for one in level for inner in _within(one)]
    if level:
        raise ValueError(f"{path.name} is nested too deep; allowed are {_DEEPEST} levels.")
    return found


def _finite(kind: type[int] | type[float]) -> Callable[[str], float]:
    """How to read a number, so that arithmetic with it does not fail."""

    def read(text: str) -> float:
        if math.isinf(float(text)):
            raise ValueError(f"a number of {len(text)} characters, {text:.20}, is too large")
        return kind(text)

    return read


def _within(value: object) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where the file is missing, broken or no object."""
    try:
        found = json_in(path)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
