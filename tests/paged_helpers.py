"""Caches of blocks as bad as they can be: blocks anywhere, and memory full of NaN."""

from __future__ import annotations

import random
from typing import Any

import torch

from labkit.model.cache.paged import PagedCache


def scattered(cache: PagedCache, seed: int = 0) -> PagedCache:
    """Let a cache take any free block, and let none of its memory be a number at first."""
    rng = random.Random(seed)
    book: Any = cache.book
    book._next = lambda after: rng.choice(list(book._free))
    poison(cache, range(cache.book.total))
    return cache


def poison(cache: PagedCache, blocks: Any) -> None:
    """Fill blocks with NaN, as a request that went wrong may leave them."""
    store: Any = cache.store
    tensors = (store.keys, store.values) if hasattr(store, "keys") else tuple(store._both)
    for tensor in tensors:
        lies = 2 if hasattr(store, "keys") else 1  # the dimension of the blocks
        tensor.index_fill_(lies, torch.tensor(list(blocks), dtype=torch.int64), torch.nan)


def free_blocks(cache: PagedCache) -> list[int]:
    """The numbers of the free blocks."""
    return list(cache.book._free)
