"""The head in PyTorch with a cache: the reference for the fused one, and its substitute."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labkit.model.cache.static import StaticCache
from labkit.model.cache.table import Cache, tensors_of
from labkit.model.decoder import Decoder
from labkit.model.rows import Rows
from labkit.optimize.speculative.head.model import Head


class PlainHead:
    """A head that runs over a plain decoder's embedding (HeadForward says what each call does)."""

    def __init__(self, head: Head, target: Decoder) -> None:
        self.head, self.target, self.config = head, target, head.config

    def new_cache(self, slots: int, capacity: int) -> StaticCache:
        return StaticCache(self.config, slots, capacity, self.target.dtype, self.target.device)

    @torch.inference_mode()
    def traced(self, rows: Rows, cache: Cache, features: Tensor) -> tuple[Tensor, Tensor]:
        store = tensors_of(cache)
        embedded = self.head.token_norm(self.target.table(rows.tokens))
        x = self.head.fuse(torch.cat((embedded, self.head.feature_norm(features)), dim=-1))
        cache.reserve(rows)
        streams = self.head.layer(x, self.target.rope(rows.positions), rows, store)
        return self.head.logits(streams[rows.wanted]), streams

    def guesses(
        self,
        tokens: Sequence[int],
        cache: Cache,
        count: int,
        streams: Tensor,
        features: Tensor,
        first: int,
    ) -> tuple[list[int], list[float]]:
        rows = Rows.prefill(tokens, start=cache.length(0)).to(self.target.device)
        logits, found = self.traced(rows, cache, features[first : first + len(tokens)])
        streams[: len(tokens)] = found
        chances, words = logits[-1].float().softmax(-1).topk(min(count, logits.shape[-1]))
        return words.tolist(), chances.tolist()
