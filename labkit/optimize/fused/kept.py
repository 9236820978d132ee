"""Rounded weights on disk: rounding a directory's matrices takes far longer than reading them.

A folder holds `weights.bin`, the blocks of all tensors one after another, and `layout.json`, which
tells where each tensor lies. labkit.base.kept sees to it that they are whole. A GGUF file's own
blocks are never kept: they are read from the file each time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from labkit.optimize.fused.pack import format_of
from labkit.optimize.fused.sources import Weights, held

_ALIGN = 64


def write(tensors: Iterable[Weights], folder: Path) -> None:
    """Write tensors to an empty folder."""
    entries: dict[str, dict[str, Any]] = {}
    with (folder / "weights.bin").open("wb") as file:
        for tensor in tensors:
            data = np.ascontiguousarray(tensor.whole())
            file.write(b"\0" * (-file.tell() % _ALIGN))
            entries[tensor.name] = {
                "offset": file.tell(), "shape": data.shape, "format": tensor.format,
                "dtype": data.dtype.name,
            }  # fmt: skip
            file.write(data.tobytes())
    (folder / "layout.json").write_text(json.dumps(entries), encoding="utf-8")


def read(folder: Path) -> list[Weights]:
    """The tensors of a folder, whose rows are read when they are asked for."""
    entries = json.loads((folder / "layout.json").read_text(encoding="utf-8"))
    return [_tensor(folder / "weights.bin", name, **entry) for name, entry in entries.items()]


def _tensor(
    file: Path, name: str, offset: int, shape: list[int], format: str, dtype: str
) -> Weights:
    kind, row = np.dtype(dtype), tuple(shape[1:])
    each = int(np.prod(row, dtype=int))  # numbers of a row

    def rows(first: int, count: int) -> np.ndarray:
        at = offset + first * each * kind.itemsize
        return np.fromfile(file, kind, count * each, offset=at).reshape(count, *row)

    if not format:
        return held(name, rows(0, shape[0]))
    columns = shape[1] * format_of(format).columns
    return Weights(name, (shape[0], columns), format, rows)
