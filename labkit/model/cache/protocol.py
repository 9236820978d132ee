"""The parts of a cache: a table of the length of each slot, and a store of keys and values.

The table (`Cache`, table.py) is the same for every decoder. The `Store` behind it has the keys and
values: in tensors that the PyTorch decoders read (`TensorStore`), or in memory of a native kernel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from labkit.errors import LabkitError
from labkit.model.config import ModelConfig
from labkit.model.rows import Rows, Span


class CacheError(LabkitError):
    """Rows that do not fit the cache."""


class CacheShape(NamedTuple):
    """The shape of a decoder's keys and values; its store must have the same shape."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @staticmethod
    def of(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> CacheShape:
        """The shape for a model that computes in `dtype` on `device`."""
        return CacheShape(config.layers, config.kv_heads, config.head_dim, dtype, device)

    def __str__(self) -> str:
        return (
            f"{self.layers} layers of {self.kv_heads} KV heads of {self.head_dim}, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        )


class KeysValues(NamedTuple):
    """Keys and values (kv_heads, n, head_dim) of one layer and slot, and their positions (n,)."""

    keys: Tensor
    values: Tensor
    positions: Tensor


class Store(Protocol):
    """The keys and values of `slots` sequences. Only the table calls these methods.

    capacity: the most tokens of a slot; None: as many as fit in memory. window: a row at position
    p attends only to positions above p - window and to the first `sinks` positions; None: to all
    positions up to p. trees: whether rows may form a tree.
    """

    @property
    def capacity(self) -> int | None: ...

    @property
    def window(self) -> int | None: ...

    @property
    def sinks(self) -> int: ...

    @property
    def trees(self) -> bool: ...

    def truncate(self, slot: int, length: int) -> None:
        """Drop everything from position `length` on; CacheError where that is impossible."""

    def move(self, slot: int, source: int, target: int) -> None:
        """Copy the keys and values of one position to another, in all layers."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of a slot into another, which is empty."""

    @property
    def nbytes(self) -> int:
        """Bytes it occupies now."""


class TensorStore(ABC):
    """A store in tensors, which the PyTorch decoders write and read layer by layer.

    shape: of the keys and values that it takes and returns.
    """

    shape: CacheShape
    capacity: int | None = None
    window: int | None = None
    sinks: int = 0
    trees: bool = True

    @abstractmethod
    def append(self, layer: int, rows: Rows, keys: Tensor, values: Tensor) -> None:
        """Write a layer's keys and values, each (rows, kv_heads, head_dim)."""

    @abstractmethod
    def read(self, layer: int, span: Span) -> KeysValues:
        """All keys and values that the rows of a span may attend to, with their own."""

    @abstractmethod
    def truncate(self, slot: int, length: int) -> None:
        """As Store.truncate."""

    @abstractmethod
    def move(self, slot: int, source: int, target: int) -> None:
        """As Store.move."""

    @abstractmethod
    def copy(self, source: int, target: int, length: int) -> None:
        """As Store.copy."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes it occupies now."""
