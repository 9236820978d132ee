"""Safetensors files that are written one tensor at a time.

The library writes a file from a dict of all tensors, which takes the memory of all of them. The
format: github.com/huggingface/safetensors (eight bytes: the header's length; a JSON header; data).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm


def save_one_by_one(
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterable[tuple[str, np.ndarray]],
    path: Path,
    what: str,
) -> None:
    """Write float32 tensors to a file as they come, in the order of `shapes`, with a progress bar.

    what: is named in the bar. Raises ValueError where a tensor is not the one that comes next.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        end = at + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    expected = iter(shapes.items())
    with (
        path.open("wb") as file,
        tqdm(total=at, desc=f"converting {what}", unit="B", unit_scale=True, leave=False) as bar,
    ):
        file.write(len(text).to_bytes(8, "little") + text)
        for name, values in tensors:
            if (name, values.shape) != next(expected, None):
                raise ValueError(f"{name} {values.shape} is not the tensor that comes next.")
            file.write(np.ascontiguousarray(values, dtype="<f4").data)
            bar.update(values.nbytes)
