"""Keys and values as the kernel reads them."""

from __future__ import annotations

import math
from ctypes import byref

import torch
from torch import Tensor

from labkit.base.memory import allocate
from labkit.model.cache.protocol import CacheError
from labkit.model.cache.table import Cache
from labkit.model.config import ModelConfig
from labkit.model.decoder import rope_frequencies
from labkit.model.rope import attention_factor, check_context
from labkit.optimize.fused import structs
from labkit.optimize.fused.pack import LANES

_TYPES = {torch.float16: 0, torch.float32: 1}


class NativeStore:
    """Memory of keys and values, float16 or float32, and the struct that tells the kernel of it.

    config: of the model whose RoPE angles it holds. capacity: the most positions of a slot. ref:
    the struct, for a call of the kernel. What keys and values look like is for subclasses to say.
    """

    window: int | None = None
    sinks: int = 0
    trees: bool = True
    keys: Tensor
    values: Tensor

    def __init__(self, config: ModelConfig, slots: int, capacity: int, dtype: torch.dtype) -> None:
        if dtype not in _TYPES:
            raise CacheError(f"the fused cache holds float16 or float32, not {dtype}.")
        if capacity < 1:
            raise CacheError(f"a cache needs room for at least one token; {capacity} given.")
        self.config, self.capacity, self.dtype = config, capacity, dtype
        check_context(config.rope_scaling, capacity)
        positions = -(-capacity // LANES) * LANES
        at = torch.arange(positions)[None, :, None].float()
        angles = at * rope_frequencies(config)[:, None]  # (ropes, capacity, turned numbers / 2)
        self._cosines, self._sines = angles.cos(), angles.sin()
        for part in (self._cosines, self._sines):  # the angles of layers with a window never scale
            part[0] *= attention_factor(config.rope_scaling)
        self._struct = structs.Cache(
            cosines=self._cosines.data_ptr(), sines=self._sines.data_ptr(),
            layers=config.layers, kv_heads=config.kv_heads, head_dim=config.head_dim,
            slots=slots, capacity=positions, type=_TYPES[dtype],
            turned=config.turned, ropes=config.ropes,
        )  # fmt: skip
        self.ref = byref(self._struct)

    def _allocate(self, keys: tuple[int, ...], values: tuple[int, ...]) -> None:
        """Make keys and values of these shapes, zeroed."""
        # On huge pages: a step reads a little of every layer, and each page walk takes time.
        self.keys, self.values = (
            torch.from_numpy(allocate(math.prod(shape) * self.dtype.itemsize))
            .view(self.dtype)
            .view(shape)
            for shape in (keys, values)
        )
        self._struct.keys, self._struct.values = self.keys.data_ptr(), self.values.data_ptr()

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return self.keys.nbytes + self.values.nbytes


class FusedStore(NativeStore):
    """Keys and values of `slots` sequences, each in memory of its own.

    keys: (layers, slots, kv_heads, capacity / 16, head_dim, 16), sixteen positions side by side;
    values: (layers, slots, kv_heads, capacity, head_dim).
    """

    def __init__(self, config: ModelConfig, slots: int, capacity: int, dtype: torch.dtype) -> None:
        super().__init__(config, slots, capacity, dtype)
        blocks = -(-capacity // LANES)
        first = (config.layers, slots, config.kv_heads)
        self._allocate(
            (*first, blocks, config.head_dim, LANES), (*first, blocks * LANES, config.head_dim)
        )

    def truncate(self, slot: int, length: int) -> None:
        """Nothing to do: later passes overwrite the positions from `length` on."""

    def move(self, slot: int, source: int, target: int) -> None:
        """Copy the key and value of one position to another, in all layers."""
        (from_block, from_lane), (block, lane) = divmod(source, LANES), divmod(target, LANES)
        self.keys[:, slot, :, block, :, lane] = self.keys[:, slot, :, from_block, :, from_lane]
        self.values[:, slot, :, target] = self.values[:, slot, :, source]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of a slot into another."""
        blocks = -(-length // LANES)
        self.keys[:, target, :, :blocks] = self.keys[:, source, :, :blocks]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]


class FusedCache(Cache):
    """A cache of fixed capacity for the fused decoder."""

    store: FusedStore

    def __init__(
        self,
        config: ModelConfig,
        slots: int = 1,
        capacity: int = 2048,
        dtype: torch.dtype = torch.float16,
    ) -> None:
        if slots < 1:
            raise CacheError(f"a cache needs at least one slot; {slots} given.")
        super().__init__(FusedStore(config, slots, capacity, dtype), slots)


def _rope(config: ModelConfig) -> tuple[object, ...]:
    """The settings that determine the RoPE angles."""
    own = config.turned, config.local_rope_theta
    return config.head_dim, config.rope_theta, config.rope_scaling, *own


def native_of(cache: Cache, config: ModelConfig) -> NativeStore:
    """The store behind a cache.

    CacheError where the kernel cannot read it, or where it has the angles of another model: the
    kernel takes them from the cache.
    """
    if not isinstance(cache.store, NativeStore):
        raise CacheError(
            f"the fused decoder cannot read a {type(cache.store).__name__}: "
            "take a cache that the decoder's own new_cache made."
        )
    made_for = cache.store.config
    if made_for is not config and _rope(made_for) != _rope(config):
        raise CacheError(
            "the cache is one of another model: take one that the decoder's own new_cache made."
        )
    return cache.store
