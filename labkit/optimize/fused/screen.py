"""The screen: a copy of the head in five bits, to find the likeliest token with.

Greedy decoding needs one token, not all logits. A pass reads the copy instead of the head. The copy
gives each logit to within a bound that is valid for every input. Then the pass reads only the few
rows of the head that may have the largest logit. It finds the same token, ties included, from fewer
bytes. The search is in kernel/screen.h.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from labkit.optimize.fused.pack import FORMATS, Format, from_blocks, to_blocks
from labkit.optimize.fused.sources import Weights

SCREEN, SCREEN_ERROR = "screen.weight", "screen.error"
SCREENED = ("q8_0",)  # head formats that are larger than a screen
_FORM = FORMATS["q5_0"]
_ROWS = 4096  # converted at a time: as floats they take six times the bytes


def screen_of(blocks: np.ndarray, form: Format) -> Iterator[Weights]:
    """A head's blocks (rows, columns / 32, bytes) -> the blocks of its copy, and the rows' errors.

    errors (rows,) float32: the largest error of each row's logit for an input of length 1.
    """
    made, errors = [], []
    for start in range(0, len(blocks), _ROWS):
        exact = from_blocks(blocks[start : start + _ROWS], form)
        made.append(to_blocks(exact, _FORM))
        errors.append(row_errors(exact, from_blocks(made[-1], _FORM)))
    yield Weights(SCREEN, np.concatenate(made), _FORM.name)
    yield Weights(SCREEN_ERROR, np.concatenate(errors))


def row_errors(exact: np.ndarray, copy: np.ndarray) -> np.ndarray:
    """|exact - copy| of each row (rows, columns), plus what rounding may add, (rows,) float32.

    A product's blocks are added one after another, each with a relative error of at most 2^-24.
    Both products are counted. Twice the steps are taken, to cover the rounding in the bound itself.
    """
    steps = 2 * (exact.shape[1] / 32 + 4) * 2.0**-24
    lengths = [np.linalg.norm(x.astype(np.float64), axis=1) for x in (exact - copy, exact, copy)]
    bound = lengths[0] * (1 + 1e-6) + steps * (lengths[1] + lengths[2])
    return np.asarray(np.nextafter(bound.astype(np.float32), np.float32(np.inf)))
