"""Keys and values in numbered blocks, which the kernel finds through a table of each slot.

The blocks of a KV head lie one after another, as the positions of a slot do in the contiguous
cache. Where a slot's blocks are consecutive, the kernel reads the same memory in the same way.
"""

from __future__ import annotations

import numpy as np
import torch

from labkit.model.cache.paged import BLOCK_SIZE, PagedCache
from labkit.model.cache.paged_store import blocks_of_a_slot, from_bytes
from labkit.model.cache.protocol import CacheError
from labkit.model.config import ModelConfig
from labkit.optimize.fused.cache import NativeStore
from labkit.optimize.fused.pack import LANES

assert BLOCK_SIZE == LANES  # a block is what the kernel reads side by side


class PagedFusedStore(NativeStore):
    """Keys (layers, kv_heads, blocks, head_dim, 16), values (layers, kv_heads, blocks, 16,
    head_dim), and a table (slots, most blocks) int32."""

    def __init__(self, config: ModelConfig, slots: int, blocks: int, dtype: torch.dtype) -> None:
        most = blocks_of_a_slot(config, slots, blocks)
        super().__init__(config, slots, min(most * LANES, config.max_positions), dtype)
        self.blocks = blocks
        first = (config.layers, config.kv_heads, blocks)
        self._allocate((*first, config.head_dim, LANES), (*first, LANES, config.head_dim))
        self._table = torch.zeros(slots, most, dtype=torch.int32)
        self._numbers = self._table.numpy()  # the same memory, faster to write to
        self._struct.table, self._struct.blocks = self._table.data_ptr(), blocks
        self.layout = (
            f"fused, {config.layers} layers of {config.kv_heads} KV heads of {config.head_dim}, "
            f"{str(dtype).removeprefix('torch.')}, blocks of {LANES}"
        )

    def point(self, slot: int, index: int, block: int) -> None:
        """As BlockStore.point."""
        self._numbers[slot, index] = block

    def truncate(self, slot: int, length: int) -> None:
        """Nothing to do: the cache releases the blocks."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Nothing to do: the cache lets the slots share their blocks."""

    def move(self, slot: int, source: int, target: int) -> None:
        """Copy the key and value of one position to another, in all layers."""
        (from_block, from_lane), (block, lane) = (
            (int(self._numbers[slot, at // LANES]), at % LANES) for at in (source, target)
        )
        self.keys[:, :, block, :, lane] = self.keys[:, :, from_block, :, from_lane]
        self.values[:, :, block, lane] = self.values[:, :, from_block, from_lane]

    def copy_block(self, source: int, target: int) -> None:
        """As BlockStore.copy_block."""
        for tensor in (self.keys, self.values):
            tensor[:, :, target] = tensor[:, :, source]

    @property
    def block_nbytes(self) -> int:
        """As BlockStore.block_nbytes."""
        return self.keys[:, :, 0].nbytes + self.values[:, :, 0].nbytes

    def read_block(self, block: int) -> bytes:
        """As BlockStore.read_block: keys (layers, kv_heads, head_dim, 16), then values (layers,
        kv_heads, 16, head_dim)."""
        content = bytearray(self.block_nbytes)
        self.read_block_into(block, content)
        return bytes(content)

    def read_block_into(self, block: int, target: bytearray) -> None:
        """As BlockStore.read_block_into; CacheError for memory of another size."""
        if len(target) != self.block_nbytes:
            raise CacheError(f"{len(target)} bytes for a block; it has {self.block_nbytes}.")
        halves = np.frombuffer(target, np.uint8).reshape(2, -1)
        for half, tensor in zip(halves, (self.keys, self.values), strict=True):
            block_of = _of(tensor, block)
            half.reshape(block_of.shape)[...] = block_of

    def write_block(self, block: int, content: bytes) -> None:
        """As BlockStore.write_block; CacheError for content of another size."""
        shape = (2, *self.keys[:, :, block].flatten(2).shape)
        both = from_bytes(content, torch.Size(shape), self.dtype).view(torch.uint8).numpy()
        for tensor, given in zip((self.keys, self.values), both, strict=True):
            to = _of(tensor, block)
            to[...] = given.reshape(to.shape)


def _of(tensor: torch.Tensor, block: int) -> np.ndarray:
    """The bytes of a block, to be read and written in place.

    numpy copies them on this thread. torch would share the little that there is among all threads:
    where other processes keep the cores busy, waiting for them took a hundred times as long.
    """
    found: np.ndarray = tensor[:, :, block].view(torch.uint8).numpy()
    return found


class PagedFusedCache(PagedCache):
    """A cache of blocks for the fused decoder."""

    store: PagedFusedStore

    def __init__(
        self, config: ModelConfig, slots: int, blocks: int, dtype: torch.dtype = torch.float16
    ) -> None:
        super().__init__(PagedFusedStore(config, slots, blocks, dtype), slots)
