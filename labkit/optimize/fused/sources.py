"""Where weights come from: a GGUF file, whose blocks stay as they are, or a directory to round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from labkit.errors import ModelError
from labkit.model.config import ModelConfig, read_config
from labkit.model.experts import ROUTER
from labkit.model.gguf_file import half_split, hf_config, split_heads, weights_of
from labkit.model.gguf_header import GgufFile, GgufTensor
from labkit.model.shapes import (
    EMBEDDING,
    HEAD,
    Piece,
    check_shapes,
    check_weights,
    decoder_weights,
    pieces_of,
    stored,
)
from labkit.model.weight_files import read_shapes, read_tensors
from labkit.optimize.fused.pack import FORMATS, FusedError, format_of, from_blocks, to_blocks

__all__ = [
    "EMBEDDING",
    "HEAD",
    "Weights",
    "directory_weights",
    "gguf_weights",
    "held",
    "own_head",
    "rounded",
]


_FLOATS = FORMATS["f32"]


@dataclass(frozen=True)
class Weights:
    """A tensor by its name in the plain decoder, whose rows are read as they are needed.

    shape: (rows, columns), or (n,) for a vector. format: of a matrix's blocks; "" for a vector.
    read(first, count): rows of a matrix as blocks (count, blocks, bytes) uint8; of a vector the
    numbers first .. first + count - 1, float32.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    read: Callable[[int, int], np.ndarray]

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of a matrix."""
        form = format_of(self.format)
        return self.shape[1] // form.columns * form.nbytes

    def whole(self) -> np.ndarray:
        """All rows at once."""
        return self.read(0, self.shape[0])


def held(name: str, data: np.ndarray, form: str = "") -> Weights:
    """A tensor in memory: blocks (rows, blocks, bytes) of a format, or a vector (n,) of floats."""
    columns = (data.shape[1] * format_of(form).columns,) if form else ()
    return Weights(
        name, (data.shape[0], *columns), form, lambda first, count: data[first : first + count]
    )


def rounded(name: str, data: np.ndarray, form: str) -> Weights:
    """A float tensor: a matrix (rows, columns) in blocks of a format, a vector or a router as it
    is."""
    if data.ndim != 2:
        return held(name, data)
    if name.endswith(ROUTER):
        floats = np.ascontiguousarray(data, dtype=np.float32)
        return held(name, floats.view(np.uint8).reshape(len(data), -1, _FLOATS.nbytes), "f32")
    try:
        return held(name, to_blocks(data, format_of(form)), form)
    except ValueError as error:
        raise ModelError(f"{name} cannot be rounded to {form}: {error}.") from None


def gguf_weights(path: Path) -> tuple[ModelConfig, list[Weights]]:
    """A GGUF file's config and its tensors, blocks as they are in the file.

    Nothing but the header is read before rows are asked for. Raises ModelError for a file that
    `load` refuses too, FusedError for a format that the kernel does not read.
    """
    file = GgufFile(path)
    raw = hf_config(file)
    found = [(name.removeprefix("model."), tensor) for name, tensor in weights_of(file)]
    config = check_weights(raw, {name: tensor.shape for name, tensor in found}, path)
    table = stored(config)
    return config, [
        _from_file(file, piece, tensor, split_heads(tensor, raw))
        for name, tensor in found
        for piece in pieces_of(table, name, tensor.shape[0])
    ]


def _from_file(file: GgufFile, piece: Piece, tensor: GgufTensor, heads: int) -> Weights:
    """Rows of a file's tensor; heads: whose rows are put back in order, in one that is whole."""
    if len(tensor.shape) == 1:
        return _vector(file, piece, tensor, heads)
    form = format_of(tensor.kind.lower())

    def read(first: int, count: int) -> np.ndarray:
        rows = file.read(tensor, piece.first + first, count)
        return rows.reshape(count, -1, form.nbytes)

    def in_order(first: int, count: int) -> np.ndarray:
        """The same where rows are put back in order: read are the heads that they lie in."""
        each = piece.rows // heads
        head, end = first // each, -(-(first + count) // each)
        rows = half_split(read(head * each, (end - head) * each), end - head)
        return rows[first - head * each :][:count]

    if piece.name.endswith(ROUTER):  # the kernel multiplies routers in floats
        return rounded(piece.name, from_blocks(read(0, piece.rows), form), "f32")
    shape = (piece.rows, *tensor.shape[1:])
    return Weights(piece.name, shape, form.name, in_order if heads else read)


def _vector(file: GgufFile, piece: Piece, tensor: GgufTensor, heads: int) -> Weights:
    """A vector; norms are as they multiply, for no file stores them with an offset."""
    if tensor.kind not in ("F32", "F16"):
        raise FusedError(f"{file.path}: {tensor.name} is {tensor.kind}, not F32 or F16.")
    kind = np.float32 if tensor.kind == "F32" else np.float16
    values = file.read(tensor)[0].view(kind).astype(np.float32)
    values = half_split(values, heads) if heads else values
    return held(piece.name, values[piece.first : piece.first + piece.rows])


def directory_weights(directory: Path, form: str) -> Iterator[Weights]:
    """A model directory's tensors, matrices rounded to a format of pack.ROUNDED.

    The head never has less than 8 bits, as in llama.cpp. Raises ModelError for a directory that
    `load` refuses too.
    """
    config = read_config(directory)
    check_shapes(config, read_shapes(directory), directory)
    for name, tensor in decoder_weights(config, read_tensors(directory)):
        own = "q8_0" if name in (EMBEDDING, HEAD) else form
        values = tensor.float().numpy()
        if not np.isfinite(values).all():
            raise ModelError(f"{directory}: {name} has numbers that are infinite or NaN.")
        yield rounded(name, values, own)


def own_head(config: ModelConfig, tensors: Iterable[Weights]) -> bool:
    """Whether weights with a tied head have another head than the embedding, which is then used."""
    found = {one.name: one for one in tensors if one.name in (EMBEDDING, HEAD)}
    if not config.tied_head or HEAD not in found:
        return False
    head, table = found[HEAD], found[EMBEDDING]
    return head.format != table.format or not np.array_equal(head.whole(), table.whole())
