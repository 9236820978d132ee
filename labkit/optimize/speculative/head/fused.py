"""The head as one native call a pass, beside a fused decoder."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from labkit.model.cache.table import Cache
from labkit.model.rows import Part, Rows
from labkit.optimize.fused import FusedCache, FusedDecoder, FusedError
from labkit.optimize.fused.native_model import FUSE, NativeModel
from labkit.optimize.fused.native_rows import address
from labkit.optimize.fused.sources import HEAD, Weights, rounded
from labkit.optimize.fused.weights import PackedWeights, pack
from labkit.optimize.speculative.head.model import Head


class FusedHead:
    """A head over its target's embedding, on its target's threads (HeadForward says what each call
    does).

    packed: the head's weights. They must be laid out for as many threads as the target's (else
    ValueError) and include the matrix that joins token and feature (else FusedError).
    """

    def __init__(self, packed: PackedWeights, target: FusedDecoder) -> None:
        if packed.threads != target.threads:
            raise ValueError(
                f"the head's weights are laid out for {packed.threads} threads, its target's for "
                f"{target.threads}: pack them for as many."
            )
        if FUSE not in packed.entries:
            raise FusedError(f"the weights lack {FUSE!r}: they are no draft head's.")
        self.config, self._engine = packed.config, target.engine
        self._model = NativeModel(packed, screened=False, embedding=target.packed)

    def new_cache(self, slots: int, capacity: int) -> FusedCache:
        return FusedCache(self.config, slots, capacity)

    def traced(self, rows: Rows, cache: Cache, features: Tensor) -> tuple[Tensor, Tensor]:
        if features.shape != (len(rows), self.config.hidden_size):
            raise ValueError(f"features {tuple(features.shape)} for {len(rows)} rows.")
        logits = torch.empty(len(rows.asked), self._model.width)
        streams = torch.empty(len(rows), self.config.hidden_size)
        self._engine.forward(
            self._model, rows, cache, logits=logits, streams=streams,
            features=features.float().contiguous(),
        )  # fmt: skip
        return logits[:, : self._model.outputs], streams

    def guesses(
        self,
        tokens: Sequence[int],
        cache: Cache,
        count: int,
        streams: Tensor,
        features: Tensor,
        first: int,
    ) -> tuple[list[int], list[float]]:
        """As HeadForward. streams and features are float32; they may be one tensor where there is
        a single token."""
        count = min(count, self._model.outputs)
        read = address(features, first, len(tokens), self.config.hidden_size)
        chances = (ctypes.c_float * count)()
        part = Part(0, cache.length(0), tokens, streams=streams)
        found = self._engine.extend(self._model, cache, part, count, chances, read)
        return found, list(chances)


def fused_head(head: Head, target: FusedDecoder, form: str = "q4_1") -> FusedHead:
    """A head packed beside its target.

    form: the block format of its matrices. With 4 bits a pass costs half as much as with 8, and the
    acceptance rate stays within a few percent.
    """

    def tensors() -> Iterator[Weights]:
        for name, tensor in head.state_dict().items():
            if name != "ids":
                name = HEAD if name == "words" else name.replace("layer.", "layers.0.", 1)
                yield rounded(name, tensor.float().numpy(), form)

    return FusedHead(pack(replace(head.config, tied_head=False), tensors(), target.threads), target)
