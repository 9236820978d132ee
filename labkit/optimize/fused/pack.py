"""The block formats of GGUF files that the kernel reads, and their exact values.

A block holds 32 or 256 columns of a row. The kernel reads the same bytes with sixteen rows
interleaved (kernel/formats.h), so that a lane of a vector is a row, and nothing is ever summed
across lanes. The values of the weights do not change.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np

from labkit.errors import ModelError

LANES = 16  # rows side by side (kWide of the kernel)
BLOCK = 32  # columns that a product takes at a time (kBlock of the kernel)


class FusedError(ModelError):
    """A model, a format or a machine that the fused decoder does not support."""


@dataclass(frozen=True)
class Format:
    """A block format: its number in the kernel, bytes of a block, columns of a block."""

    name: str
    number: int
    nbytes: int
    columns: int = BLOCK

    @property
    def bits(self) -> float:
        """Bits a weight, scales included."""
        return 8 * self.nbytes / self.columns


# The sizes are those of ggml. A block of floats is 32 of them.
FORMATS = {
    form.name: form
    for form in (
        Format("q4_1", 0, 20),
        Format("q4_0", 1, 18),
        Format("q8_0", 2, 34),
        Format("q5_0", 3, 22),
        Format("q5_1", 4, 24),
        Format("q4_k", 5, 144, 256),
        Format("q5_k", 6, 176, 256),
        Format("q6_k", 7, 210, 256),
        Format("q3_k", 8, 110, 256),
        Format("q2_k", 9, 84, 256),
        Format("iq4_nl", 10, 18),
        Format("iq4_xs", 11, 136, 256),
        Format("f16", 12, 64),
        Format("bf16", 13, 64),
        Format("f32", 14, 128),
    )
}
_LEAST_SCALE = 2.0**-17  # float16 holds smaller ones to less than eight bits
ROUNDED = ("q8_0", "q4_1", "q4_0", "q5_0")  # formats that other weights may be rounded to


def format_of(name: str) -> Format:
    """A format by name; FusedError for one the kernel does not read."""
    if name not in FORMATS:
        raise FusedError(
            f"block format {name.upper()} is not supported by the fused decoder; "
            f"supported: {', '.join(n.upper() for n in FORMATS)}."
        )
    return FORMATS[name]


def interleave(
    library: ctypes.CDLL, blocks: np.ndarray, form: Format, address: int, stride: int
) -> None:
    """Write rows of blocks (rows, blocks, bytes) uint8 to memory as the kernel reads them.

    address: of the first group of sixteen rows; the groups lie `stride` bytes apart. Lanes without
    a row keep the zeros that have to be there.
    """
    given = np.ascontiguousarray(blocks)
    library.lk_interleave(form.number, given.ctypes.data, *given.shape[:2], address, stride)


def to_blocks(weight: np.ndarray, form: Format) -> np.ndarray:
    """Quantize float rows (rows, columns) to nearest -> (rows, blocks, bytes) uint8.

    form: one of ROUNDED. Raises ValueError, with the reason alone, where the float16 scales of the
    blocks do not hold the numbers.
    """
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    kind = GGMLQuantizationType[form.name.upper()]
    with np.errstate(over="ignore", invalid="ignore"):  # the scales tell
        data = quantize(np.ascontiguousarray(weight, dtype=np.float32), kind)
    blocks = data.reshape(weight.shape[0], weight.shape[1] // form.columns, form.nbytes)
    _check_scales(blocks, form, bool(weight.any()))
    return blocks


def _check_scales(blocks: np.ndarray, form: Format, some: bool) -> None:
    """ValueError for scales that float16 does not hold. some: whether any weight is not 0.

    A block of small numbers beside larger ones may get the scale 0: what it loses is then less than
    half a step of the largest block, as long as that block's own scale has eight bits.
    """
    fields = range(0, 4 if form.name == "q4_1" else 2, 2)  # of q4_1 the minimum too
    scales = np.stack([blocks[..., at : at + 2].copy().view(np.float16)[..., 0] for at in fields])
    if not np.isfinite(scales).all():
        raise ValueError("a number is NaN, infinite, or too large for a block with float16 scales")
    if some and np.abs(scales).max() < _LEAST_SCALE:
        raise ValueError("all numbers are too small for blocks with float16 scales")


def from_blocks(blocks: np.ndarray, form: Format) -> np.ndarray:
    """The exact float32 values of blocks (rows, blocks, bytes)."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    kind = GGMLQuantizationType[form.name.upper()]
    data = blocks.reshape(blocks.shape[0], -1)
    if form.name in ("f16", "f32"):
        data = data.view(np.float16 if form.name == "f16" else np.float32)
    return np.asarray(dequantize(data, kind), dtype=np.float32)
