"""Weights as the kernel reads them: GGUF blocks, sixteen rows interleaved.

A block holds 32 columns of a row: Q4_0 (scale d; weight d * (n - 8)), Q4_1 (d and m; d * n + m),
Q5_0 (d; d * (n - 16)) or Q8_0 (d; d * n), as in llama.cpp's files. An interleaved block of sixteen
rows begins with their scales side by side. Then come the bytes of all sixteen rows, four columns at
a time. So a lane of a vector is a row, and nothing is ever summed across lanes. For Q5_0, four
bytes of each row follow: bits 0, 1, ... are the fifth bits of columns 0 to 3, 4 to 7, ... The
values of the weights do not change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from labkit.errors import ModelError

LANES = 16  # rows side by side (kWide of the kernel)
BLOCK = 32  # columns that share a scale


class FusedError(ModelError):
    """A model, a format or a machine that the fused decoder does not support."""


@dataclass(frozen=True)
class Format:
    """A block format: its number in the kernel, bytes of a block's scales, bytes of a block."""

    name: str
    number: int
    scales: int
    nbytes: int

    @property
    def bits(self) -> float:
        """Bits a weight, scales included."""
        return 8 * self.nbytes / BLOCK


FORMATS = {
    "q4_1": Format("q4_1", 0, 4, 20),
    "q4_0": Format("q4_0", 1, 2, 18),
    "q8_0": Format("q8_0", 2, 2, 34),
    "q5_0": Format("q5_0", 3, 2, 22),
}


def format_of(name: str) -> Format:
    """A format by name; FusedError for one the kernel does not read."""
    if name not in FORMATS:
        raise FusedError(
            f"block format {name.upper()} is not supported by the fused decoder; "
            f"supported: {', '.join(n.upper() for n in FORMATS)}."
        )
    return FORMATS[name]


def interleave(blocks: np.ndarray, form: Format) -> np.ndarray:
    """Blocks of rows (rows, columns / 32, bytes) -> (groups, columns / 32, 16 * bytes) uint8.

    The last group is filled up with rows of zeros: their scales are 0, so their outputs are 0.
    """
    rows, columns, nbytes = blocks.shape
    groups = -(-rows // LANES)
    padded = np.zeros((groups * LANES, columns, nbytes), dtype=np.uint8)
    padded[:rows] = blocks
    lanes = padded.reshape(groups, LANES, columns, nbytes)
    scales = lanes[..., : form.scales].reshape(groups, LANES, columns, form.scales // 2, 2)
    fifths = 4 if form.name == "q5_0" else 0  # bytes of fifth bits, before the nibbles
    quads = lanes[..., form.scales + fifths :].reshape(groups, LANES, columns, -1, 4)
    if form.name == "q8_0":
        quads = quads ^ 128  # signed -> value + 128
    parts = [part.transpose(0, 2, 3, 1, 4).reshape(groups, columns, -1) for part in (scales, quads)]
    if fifths:
        own = lanes[..., form.scales : form.scales + fifths]
        bits = np.unpackbits(own, axis=-1, bitorder="little")
        bits = bits.reshape(groups, LANES, columns, 8, 4).transpose(0, 2, 1, 4, 3)
        parts.append(np.packbits(bits, axis=-1, bitorder="little").reshape(groups, columns, -1))
    return np.concatenate(parts, axis=-1)


def to_blocks(weight: np.ndarray, form: Format) -> np.ndarray:
    """Quantize float rows (rows, columns) to nearest -> (rows, columns / 32, bytes) uint8."""
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    kind = GGMLQuantizationType[form.name.upper()]
    data = quantize(np.ascontiguousarray(weight, dtype=np.float32), kind)
    return data.reshape(weight.shape[0], weight.shape[1] // BLOCK, form.nbytes)


def from_blocks(blocks: np.ndarray, form: Format) -> np.ndarray:
    """The exact float32 values of blocks (rows, columns / 32, bytes)."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    kind = GGMLQuantizationType[form.name.upper()]
    return np.asarray(dequantize(blocks.reshape(blocks.shape[0], -1), kind), dtype=np.float32)
