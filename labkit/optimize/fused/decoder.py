"""The fused decoder: a whole pass in one native call, over quantized blocks.

It speaks the plain decoder's forward contract, ragged rows and cache slots. It is batch-invariant:
a row's logits are the same bits whatever other rows share its pass.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from labkit.model.cache.table import Cache
from labkit.model.experts import ROUTER
from labkit.model.rows import Part, Rows, check_streams, fill_streams
from labkit.optimize.fused.cache import FusedCache
from labkit.optimize.fused.engine import Engine
from labkit.optimize.fused.native_model import NativeModel
from labkit.optimize.fused.paged import PagedFusedCache
from labkit.optimize.fused.screen import SCREEN
from labkit.optimize.fused.structs import SKIP
from labkit.optimize.fused.weights import PackedWeights

__all__ = ["SKIP", "FusedDecoder"]


class FusedDecoder:
    """A decoder whose pass is one native call, for every family that the plain one has.

    Its threads, as many as the weights are laid out for, keep running between passes. isa: one of
    native.ISAS instead of the best that this processor has. screened: find the likeliest token of a
    single row, or of a few drafted rows, with a smaller copy of the head (screen.py), where there
    is one. That reads fewer bytes and changes no token. Logits always come from the head itself.
    """

    def __init__(self, packed: PackedWeights, isa: str = "", screened: bool = True) -> None:
        self.packed, self.config, self.threads = packed, packed.config, packed.threads
        self.screened = screened and packed.has_screen
        self.formats = sorted(
            {
                e.format
                for name, e in packed.entries.items()
                if e.format and name != SCREEN and not name.endswith(ROUTER)
            }
        )
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.engine = Engine(packed.threads, isa)
        self.isa = self.engine.isa
        self.model = NativeModel(packed, self.screened)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that a greedy step of one row reads."""
        return self.packed.read_bytes(self.screened)

    @property
    def all_logits_bytes(self) -> int:
        """Bytes of weights that a step reads when it computes every logit."""
        return self.packed.read_bytes()

    @property
    def exact_groups(self) -> int:
        """Groups of sixteen logits that screening had to compute with the head, since the start."""
        return self.engine.exact_groups

    @property
    def skip(self) -> int:
        """The stages that passes skip, as a sum of SKIP. It is 0 except in measurements."""
        return self.engine.skip

    @skip.setter
    def skip(self, stages: int) -> None:
        self.engine.skip = stages

    def new_cache(
        self, slots: int, capacity: int, dtype: torch.dtype = torch.float16
    ) -> FusedCache:
        """An empty cache for this model; dtype: float16 or float32."""
        return FusedCache(self.config, slots, capacity, dtype)

    def new_paged_cache(
        self, slots: int, blocks: int, dtype: torch.dtype = torch.float16
    ) -> PagedFusedCache:
        """An empty cache of `blocks` blocks of 16 positions, which all slots share.

        A row gets the same bits from it as from `new_cache`, wherever its blocks lie.
        """
        return PagedFusedCache(self.config, slots, blocks, dtype)

    def __call__(self, rows: Rows, cache: Cache) -> Tensor:
        """Logits of the wanted rows, (wanted, vocab) float32.

        Raises CacheError for rows that do not fit the cache, and for a part that is not causal and
        has more rows than the kernel takes at once; IndexError for a token outside the vocabulary
        or a wanted row that does not exist; ValueError for embeddings of another size; ModelError
        where the keys or values that the pass makes are no finite numbers. After an error the cache
        is as before.
        """
        logits = torch.empty(len(rows.asked), self.model.width)
        self.engine.forward(self.model, rows, cache, logits=logits)
        return logits[:, : self.model.outputs]

    def traced(self, rows: Rows, cache: Cache) -> tuple[Tensor, Tensor]:
        """Logits as above, and the streams of all rows after the last layer, (rows, hidden)."""
        logits = torch.empty(len(rows.asked), self.model.width)
        streams = torch.empty(len(rows), self.config.hidden_size)
        self.engine.forward(self.model, rows, cache, logits=logits, streams=streams)
        return logits[:, : self.model.outputs], streams

    def greedy(self, parts: Sequence[Part], cache: Cache) -> list[list[int]]:
        """For each part, the likeliest token after each of its wanted rows.

        The same as the argmax of `__call__` on these rows. For one part of tokens it takes some
        0.3 ms less, because it makes no tensor and reads no logits: both are slow after a pass,
        whose weights push everything else out of the processor's caches. Where that part's tokens
        are guesses, the result after a wrong guess may be -1: screening does not look for it.
        Raises as `__call__` does, ValueError for streams of another size, and ModelError where any
        logit of a row that is looked at is no finite number, computed by the head or not.
        """
        if len(parts) == 1 and parts[0].embeddings is None and parts[0].causal:
            return [self.engine.extend(self.model, cache, parts[0])]
        rows = Rows.of(parts)
        check_streams(parts, self.config.hidden_size)
        wanted = any(part.streams is not None for part in parts)
        streams = torch.empty(len(rows), self.config.hidden_size) if wanted else None
        found = (ctypes.c_int64 * len(rows.asked))()
        self.engine.forward(self.model, rows, cache, best=found, streams=streams)
        if streams is not None:
            fill_streams(parts, rows, streams)
        tokens = iter(found)
        return [list(itertools.islice(tokens, part.wanted)) for part in parts]
