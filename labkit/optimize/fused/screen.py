"""The screen: a copy of the head in five bits, to find the likeliest token with.

Greedy decoding needs one token, not all logits. A pass reads the copy instead of the head. The copy
gives each logit to within a bound that is valid for every input. Then the pass reads only the few
rows of the head that may have the largest logit. It finds the same token, ties included, from fewer
bytes. The search is in kernel/screen.h.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from labkit.base.device import cores_allowed
from labkit.optimize.fused import native
from labkit.optimize.fused.pack import BLOCK, FORMATS
from labkit.optimize.fused.sources import Weights, held

SCREEN, SCREEN_ERROR = "screen.weight", "screen.error"
SCREENED = ("q8_0",)  # head formats that are larger than a screen
_FORM = FORMATS["q5_0"]
_ROWS = 4096  # copied at a time


def screen_of(head: Weights) -> Iterator[Weights]:
    """A head in Q8_0 blocks -> the blocks of its copy, and the rows' errors.

    errors (rows,) float32: the largest error of each row's logit for an input of length 1.
    """
    rows, columns = head.shape
    made = np.empty((rows, columns // BLOCK, _FORM.nbytes), dtype=np.uint8)
    lengths = np.empty((rows, 3))

    def copy(first: int) -> None:
        blocks = np.ascontiguousarray(head.read(first, min(_ROWS, rows - first)))
        native.library().lk_screen(
            blocks.ctypes.data, *blocks.shape[:2], made[first:].ctypes.data,
            lengths[first:].ctypes.data,
        )  # fmt: skip

    with ThreadPoolExecutor(cores_allowed()) as beside:  # the kernel's calls leave the lock free
        list(beside.map(copy, range(0, rows, _ROWS)))
    yield held(SCREEN, made, _FORM.name)
    yield held(SCREEN_ERROR, row_errors(lengths, columns))


def row_errors(lengths: np.ndarray, columns: int) -> np.ndarray:
    """|exact - copy| of each row, plus what rounding may add, (rows,) float32.

    lengths (rows, 3): of what the copy is off, of the row, of the copy. A product's blocks are
    added one after another, each with a relative error of at most 2^-24. Both products are counted.
    Twice the steps are taken, to cover the rounding in the bound itself.
    """
    steps = 2 * (columns / 32 + 4) * 2.0**-24
    bound = lengths[:, 0] * (1 + 1e-6) + steps * (lengths[:, 1] + lengths[:, 2])
    return np.asarray(np.nextafter(bound.astype(np.float32), np.float32(np.inf)))
