"""A model directory's safetensors files: which of them are read, and what they hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from labkit.base.units import shown
from labkit.errors import ModelError

_INDEX, _WHOLE = "model.safetensors.index.json", "model.safetensors"


def _weight_files(directory: Path) -> tuple[list[Path], dict[str, str]]:
    """The safetensors files of a directory, and the index that names them: the file of each tensor;
    empty without an index. ModelError where there are no files.

    As transformers does: model.safetensors, or the files that its index names. Where there is
    neither, all that are there.
    """
    if (directory / _WHOLE).exists():
        return [directory / _WHOLE], {}
    if (directory / _INDEX).is_file():
        index = _index(directory)
        return sorted({directory / name for name in index.values()}), index
    files = sorted(directory.glob("*.safetensors"))
    if files:
        return files, {}
    pickles = sorted(directory.glob("*.bin")) + sorted(directory.glob("*.pt*"))
    hint = (
        f" It has {pickles[0].name}, but pickled weights can run code and are never read:"
        " convert them to safetensors."
        if pickles
        else ""
    )
    raise ModelError(f"{directory} has no *.safetensors weights.{hint}")


def _index(directory: Path) -> dict[str, str]:
    """The file of each tensor; ModelError for an index that is broken or names a missing file."""
    path = directory / _INDEX
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        named = {str(name): str(file) for name, file in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise ModelError(f"{path} is no readable index of weights: {error!r}.") from error
    for file in sorted(set(named.values())):
        if Path(file).name != file or not _is_file(directory / file):
            raise ModelError(f"{path} names {shown(file)}, which {directory} does not have.")
    return named


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Within the block a file is read: ModelError, in one line, where that fails."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise ModelError(
            f"{file} cannot be read ({error}): it is cut short or damaged. Fetch it again."
        ) from error
    except OSError as error:
        # safetensors raises some without a number, for a path that it says is none
        kind = "it is a folder" if file.is_dir() else error.strerror or str(error)
        raise ModelError(f"{file} cannot be read: {kind}.") from error


def whole_weight_files(directory: Path) -> list[Path]:
    """The safetensors files that are read, after a check that each is as long as its header says.
    Reads headers only. ModelError where there are none."""
    from safetensors import safe_open

    files, _ = _weight_files(directory)
    for file in files:
        with _reading(file), safe_open(file, framework="pt"):
            pass
    return files


def read_tensors(directory: Path) -> Iterator[tuple[str, Tensor]]:
    """(name without the `model.` prefix, tensor) of every weight in a directory."""
    for file, name, opened in _opened(directory):
        with _reading(file):
            found = opened.get_tensor(name)
        yield name.removeprefix("model."), found


def read_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """The shape of every weight, by its name without the `model.` prefix. Reads headers only."""
    return {
        name.removeprefix("model."): tuple(opened.get_slice(name).get_shape())
        for _, name, opened in _opened(directory)
    }


def _only_one(seen: dict[str, tuple[str, Path]], name: str, file: Path) -> None:
    """Add a tensor to those that were seen; ModelError where the same weight was, perhaps under its
    other name: only one of the two would count."""
    plain = name.removeprefix("model.")
    if plain in seen:
        other, first = seen[plain]
        both = "" if other == name else f" ({other!r} and {name!r} are one weight)"
        where = (
            f"{first.name} and {file.name} both hold" if first != file else f"{file} holds twice"
        )
        raise ModelError(f"{where} {plain!r}{both}.")
    seen[plain] = (name, file)


def _opened(directory: Path) -> Iterator[tuple[Path, str, Any]]:
    """(file, name, the open file) of every weight; ModelError where two files hold one."""
    from safetensors import safe_open

    files, index = _weight_files(directory)
    seen: dict[str, tuple[str, Path]] = {}  # by its name without the prefix
    for file in files:
        with _reading(file), safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict
                if name.endswith("rotary_emb.inv_freq"):
                    continue
                if index and index.get(name) != file.name:
                    continue  # the index names another file for it, or does not name it
                _only_one(seen, name, file)
                yield file, name, opened
    if lost := sorted(index.keys() - {name for name, _ in seen.values()}):
        raise ModelError(f"{directory}: {index[lost[0]]} lacks {lost[0]!r}, which the index names.")
