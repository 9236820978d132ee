"""Rows as the kernel reads them: arrays of numbers and addresses, made for one call."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from labkit.model.rows import Rows
from labkit.optimize.fused import structs


def address(values: Tensor, first: int, count: int, hidden: int) -> int:
    """The address in memory of row `first` of float32 values (rows, hidden).

    ValueError unless there are `count` such rows from there on, contiguous in memory.
    """
    fits = values.dim() == 2 and values.shape[1] == hidden and values.shape[0] >= first + count
    if not fits or values.dtype is not torch.float32 or not values.is_contiguous():
        raise ValueError(
            f"{count} rows from row {first} on are wanted, {hidden} float32 each, one after "
            f"another; given are {tuple(values.shape)} of {values.dtype}."
        )
    return values.data_ptr() + 4 * hidden * first


class NativeRows:
    """The struct of a pass's rows, and the memory that it points into. Outputs are left empty."""

    def __init__(self, rows: Rows, hidden: int) -> None:
        count, asked = len(rows), len(rows.asked)
        self._numbers = (ctypes.c_int64 * (2 * count + asked))(*rows.ids, *rows.at, *rows.asked)
        self._spans = (structs.Span * len(rows.spans))(
            *(structs.Span(s.slot, s.start, s.count, s.first_row, s.causal) for s in rows.spans)
        )
        self._paths = _paths(rows)
        self._embedded = [given.to("cpu", torch.float32).contiguous() for _, given in rows.embedded]
        self._embeddings = self._addresses(rows, hidden) if rows.embedded else None
        tokens = ctypes.addressof(self._numbers)
        self.struct = structs.Rows(
            tokens=tokens,
            positions=tokens + 8 * count,
            wanted=tokens + 16 * count,
            spans=ctypes.addressof(self._spans),
            embeddings=None if self._embeddings is None else ctypes.addressof(self._embeddings),
            paths=None if self._paths is None else self._paths.data_ptr(),
            rows=count,
            wanted_rows=asked,
            span_count=len(rows.spans),
            path_width=0 if self._paths is None else self._paths.shape[1],
            likely=1,
        )

    def _addresses(self, rows: Rows, hidden: int) -> ctypes.Array[ctypes.c_void_p]:
        """The address of each row's embedding, (rows,); None where the row is a token."""
        found = (ctypes.c_void_p * len(rows))()
        for (at, _), given in zip(rows.embedded, self._embedded, strict=True):
            start = address(given, 0, at.stop - at.start, hidden)
            for row in range(at.start, at.stop):
                found[row] = start + 4 * hidden * (row - at.start)
        return found


def _paths(rows: Rows) -> Tensor | None:
    """Each row's path through the tree of its span, (rows, deepest + 1) int32, filled up with -1.

    For a row of a chain there are only -1. None where there is no tree.
    """
    if not any(span.parents for span in rows.spans):
        return None
    paths = [
        span.path(row) if span.parents else [] for span in rows.spans for row in range(span.count)
    ]
    deepest = max(map(len, paths))
    made = [path + [-1] * (deepest - len(path)) for path in paths]
    return torch.tensor(made, dtype=torch.int32)
