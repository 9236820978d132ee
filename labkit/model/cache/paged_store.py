"""Keys and values in numbered blocks of tensors, for the PyTorch decoders."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.base.device import Device
from labkit.model.cache.paged import BLOCK_SIZE
from labkit.model.cache.protocol import CacheError, CacheShape, KeysValues, TensorStore
from labkit.model.config import ModelConfig
from labkit.model.rows import Rows, Span


def blocks_of_a_slot(config: ModelConfig, slots: int, blocks: int) -> int:
    """The most blocks of one slot: no more than the model's context fills.

    CacheError for a number of slots or blocks that makes no cache.
    """
    if slots < 1 or blocks < 1:
        raise CacheError(
            f"a paged cache needs at least one slot and one block; {slots} and {blocks} given."
        )
    return min(blocks, -(-config.max_positions // BLOCK_SIZE))


class PagedTensorStore(TensorStore):
    """Two tensors (layers, blocks, kv_heads, 16, head_dim) and a table (slots, most blocks).

    A read gathers the blocks of a slot, so it copies them. The native store does not.
    """

    capacity: int

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        blocks: int,
        dtype: torch.dtype = torch.float32,
        device: Device = "cpu",
    ) -> None:
        most = blocks_of_a_slot(config, slots, blocks)
        self.blocks, self.capacity = blocks, min(most * BLOCK_SIZE, config.max_positions)
        shape = (2, config.layers, blocks, config.kv_heads, BLOCK_SIZE, config.head_dim)
        self._both = torch.zeros(shape, dtype=dtype, device=device)
        self._keys, self._values = self._both[0], self._both[1]
        self.shape = CacheShape.of(config, dtype, self._both.device)
        self._table = torch.zeros(slots, most, dtype=torch.int64, device=device)
        self._positions = torch.arange(self.capacity, device=device)
        self.layout = f"tensors of {self.shape}, blocks of {BLOCK_SIZE}"

    def point(self, slot: int, index: int, block: int) -> None:
        """As BlockStore.point."""
        self._table[slot, index] = block

    def append(self, layer: int, rows: Rows, keys: Tensor, values: Tensor) -> None:
        for span in rows.spans:
            at = self._positions[span.start : span.end]
            blocks, lanes = self._table[span.slot, at // BLOCK_SIZE], at % BLOCK_SIZE
            self._keys[layer, blocks, :, lanes] = keys[span.rows]  # (rows, kv_heads, head_dim)
            self._values[layer, blocks, :, lanes] = values[span.rows]

    def read(self, layer: int, span: Span) -> KeysValues:
        blocks = self._table[span.slot, : -(-span.end // BLOCK_SIZE)]
        return KeysValues(
            _gathered(self._keys[layer], blocks)[:, : span.end],
            _gathered(self._values[layer], blocks)[:, : span.end],
            self._positions[: span.end],
        )

    def truncate(self, slot: int, length: int) -> None:
        """Nothing to do: the cache releases the blocks."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Nothing to do: the cache lets the slots share their blocks."""

    def move(self, slot: int, source: int, target: int) -> None:
        (from_block, from_lane), (block, lane) = (
            (int(self._table[slot, at // BLOCK_SIZE]), at % BLOCK_SIZE) for at in (source, target)
        )
        self._both[:, :, block, :, lane] = self._both[:, :, from_block, :, from_lane]

    def copy_block(self, source: int, target: int) -> None:
        """As BlockStore.copy_block."""
        self._both[:, :, target] = self._both[:, :, source]

    @property
    def block_nbytes(self) -> int:
        """As BlockStore.block_nbytes."""
        return self._both[:, :, 0].nbytes

    def read_block(self, block: int) -> bytes:
        """As BlockStore.read_block: keys, then values, (layers, kv_heads, 16, head_dim) each."""
        content = self._both[:, :, block].contiguous().cpu()
        return content.view(torch.uint8).numpy().tobytes()

    def read_block_into(self, block: int, target: bytearray) -> None:
        """As BlockStore.read_block_into."""
        target[:] = self.read_block(block)

    def write_block(self, block: int, content: bytes) -> None:
        """As BlockStore.write_block; CacheError for content of another size."""
        to = self._both[:, :, block]
        self._both[:, :, block] = from_bytes(content, to.shape, to.dtype)

    @property
    def nbytes(self) -> int:
        return self._both.nbytes


def _gathered(tensor: Tensor, blocks: Tensor) -> Tensor:
    """Some of the blocks (blocks, kv_heads, 16, head_dim) of a layer as (kv_heads, n, head_dim)."""
    return tensor[blocks].transpose(0, 1).flatten(1, 2)


def from_bytes(content: bytes, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """A tensor of the bytes of one; CacheError where the shape needs more or fewer bytes."""
    needed = shape.numel() * dtype.itemsize
    if len(content) != needed:
        raise CacheError(f"{len(content)} bytes for a block; it has {needed}.")
    return torch.frombuffer(bytearray(content), dtype=dtype).view(shape)
