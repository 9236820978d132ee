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
_LARGEST = 64 * 2**20  # bytes of a JSON file; ours have a few MB


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

    Text is written as UTF-8, half a character as "?"; folders on the way are made. Raises OSError
    where it cannot be written.
    """
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
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


def json_text(data: Any, indent: int | None = None) -> str:
    """Data as JSON that every program reads: what is no number, or infinite, becomes null."""
    try:
        return json.dumps(data, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_without_nan(data), indent=indent, allow_nan=False)


def _without_nan(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, dict):
        return {name: _without_nan(value) for name, value in data.items()}
    return [_without_nan(one) for one in data] if isinstance(data, list | tuple) else data


def text_in(path: Path, most: int = _LARGEST) -> str:
    """The text of a file of ours.

    Raises OSError for what cannot be read or is no file, ValueError for a file that is no UTF-8 or
    has more than `most` bytes. A pipe, as a shell makes it for <(...), is read too.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(most + 1) if size <= most else b""
    if max(size, len(data)) > most:
        raise ValueError(f"it has more than {most / 2**20:.0f} MB")
    return data.decode("utf-8")


def json_in(path: Path) -> Any:
    """What a JSON file holds, however hostile: it can be taken apart without surprise.

    NaN and Infinity, which JSON has not, are read as null: an unknown number. Raises ValueError, in
    one line, where it cannot be read, is no file, no UTF-8 or no JSON, holds a number that no float
    holds, is larger than any of ours, or is nested too deep.
    """
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ValueError("it is no regular file")  # to read from a pipe could take for ever
        text = text_in(path)
        found = json.loads(
            text,
            parse_float=_finite(float),
            parse_int=_finite(int),
            parse_constant=lambda _: None,
        )
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
