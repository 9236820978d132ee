"""A copy of the head in five bits, to find the likeliest token with: kernel/screen.h says how.

Greedy decoding asks for one token, not for all logits. The copy, read in the head's place, tells
each logit to within a bound that holds for every input, so that only the few rows that may win are
read from the head itself: the same token, to the last tie, from fewer bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from labkit.optimize.fused.pack import FORMATS, Format, from_blocks, to_blocks

SCREEN, SCREEN_ERROR = "screen.weight", "screen.error"
SCREENED = ("q8_0",)  # formats of a head that a screen is smaller than
_FORM = FORMATS["q5_0"]
_ROWS = 4096  # at a time: as floats they take six times as much


def screen_of(blocks: np.ndarray, form: Format) -> Iterator[tuple[str, np.ndarray, str]]:
    """A head's blocks (rows, columns / 32, bytes) -> those of its copy, and of each row the error
    (rows,) float32 that its logit may have for an input of length 1."""
    made, errors = [], []
    for start in range(0, len(blocks), _ROWS):
        exact = from_blocks(blocks[start : start + _ROWS], form)
        made.append(to_blocks(exact, _FORM))
        errors.append(row_errors(exact, from_blocks(made[-1], _FORM)))
    yield SCREEN, np.concatenate(made), _FORM.name
    yield SCREEN_ERROR, np.concatenate(errors), ""


def row_errors(exact: np.ndarray, copy: np.ndarray) -> np.ndarray:
    """|exact - copy| of each row (rows, columns), and what rounding may add, (rows,) float32.

    A product's blocks are added one after another, each step with a relative error of at most
    2^-24; twice that many steps, of both products, cover the bound's own arithmetic too.
    """
    steps = 2 * (exact.shape[1] / 32 + 4) * 2.0**-24
    lengths = [np.linalg.norm(x.astype(np.float64), axis=1) for x in (exact - copy, exact, copy)]
    bound = lengths[0] * (1 + 1e-6) + steps * (lengths[1] + lengths[2])
    return np.nextafter(bound.astype(np.float32), np.float32(np.inf))
