"""Threads that keep running between passes, the memory they work in, and calls of the kernel."""

from __future__ import annotations

import ctypes
import os
import weakref
from ctypes import byref

from torch import Tensor

from labkit.base.cores import unbound
from labkit.errors import ModelError
from labkit.model.cache.protocol import CacheError
from labkit.model.cache.table import Cache
from labkit.model.config import ModelConfig
from labkit.model.rows import Part, Rows
from labkit.model.sampling import NOT_NUMBERS
from labkit.optimize.fused import native, structs
from labkit.optimize.fused.cache import native_of
from labkit.optimize.fused.layout import check_threads
from labkit.optimize.fused.native_model import NativeModel
from labkit.optimize.fused.native_rows import NativeRows, address
from labkit.optimize.fused.pack import FusedError
from labkit.optimize.fused.structs import Status


def _free(library: ctypes.CDLL, handle: int, process: int) -> None:
    """End the threads, in the process that has them."""
    if os.getpid() == process:
        library.lk_free(handle)


class Engine:
    """Runs passes, one at a time, of any model whose weights are laid out for its threads.

    A draft head shares its target's engine: two pools of threads would spin on each other's cores.
    isa: one of native.ISAS instead of the best that this processor has. skip: the stages that
    passes skip, as a sum of structs.SKIP; 0 except in measurements.
    """

    def __init__(self, threads: int, isa: str = "") -> None:
        native.check_isa(isa)
        check_threads(threads)
        self.threads, self.skip = threads, 0
        self._library = native.library(isa)
        self.isa = str(self._library.lk_isa().decode())
        self._start()

    def _start(self) -> None:
        """Start the threads; FusedError where the system does not give so many."""
        with unbound():
            self._native: int = self._library.lk_new(self.threads) or 0
        if not self._native:
            raise FusedError(f"the system did not start {self.threads} threads: take fewer.")
        self._process = os.getpid()
        weakref.finalize(self, _free, self._library, self._native, self._process)

    @property
    def _handle(self) -> int:
        """The threads of this process: a forked child has none of its parent's."""
        if self._process != os.getpid():
            self._start()
        return self._native

    @property
    def exact_groups(self) -> int:
        """Groups of sixteen logits that screening had to compute with the head, since the start."""
        return int(self._library.lk_exact_groups(self._handle))

    def forward(
        self,
        model: NativeModel,
        rows: Rows,
        cache: Cache,
        *,
        logits: Tensor | None = None,
        best: ctypes.Array[ctypes.c_int64] | None = None,
        streams: Tensor | None = None,
        features: Tensor | None = None,
    ) -> None:
        """Run a pass over rows. It writes to those of logits, best and streams that are given.

        logits: (wanted, model.width) float32. best: the likeliest token of each wanted row.
        streams: (rows, hidden) float32. features (rows, hidden) float32: what a draft head reads
        beside the tokens. Raises what `FusedDecoder.__call__` does; then the cache is as before.
        """
        count, hidden = len(rows), model.config.hidden_size
        store = native_of(cache, model.config)
        given = NativeRows(rows, hidden)
        struct = given.struct
        struct.skip = self.skip
        struct.best = None if best is None else ctypes.addressof(best)
        struct.streams = None if streams is None else address(streams, 0, count, hidden)
        struct.features = None if features is None else address(features, 0, count, hidden)
        to = None if logits is None else logits.data_ptr()
        cache.reserve(rows)
        code = self._library.lk_forward(self._handle, model.ref, store.ref, byref(struct), to)
        if code:
            for span in rows.spans:
                cache.truncate(span.slot, span.start)
            raise self._refusal(Status(code), model.config, count)

    def extend(
        self,
        model: NativeModel,
        cache: Cache,
        part: Part,
        likely: int = 1,
        chances: ctypes.Array[ctypes.c_float] | None = None,
        features: int | None = None,
    ) -> list[int]:
        """Run a pass over one part of tokens, a chain or a tree.

        Returns the `likely` likeliest tokens of each wanted row, (wanted x likely). Their
        probabilities are written to chances. features: the address of the tokens' features. The
        code makes few objects: after a pass the weights fill the processor's caches, so each object
        takes long to make. Raises as `forward` does.
        """
        tokens, parents, count = part.tokens, part.parents, len(part.tokens)
        store, position = native_of(cache, model.config), cache.length(part.slot)
        fits = count and 0 <= part.wanted <= count and (not parents or len(parents) == count)
        if part.start != position or not fits:
            cache.reserve(Rows.of([part]))  # raises
        hidden, streams = model.config.hidden_size, part.streams
        given = (ctypes.c_int64 * count)(*tokens)
        tree = (ctypes.c_int64 * count)(*parents) if parents else None
        found = (ctypes.c_int64 * (part.wanted * likely))()
        rows = structs.Continuation(
            ctypes.addressof(given),
            None if tree is None else ctypes.addressof(tree),
            features,
            None if streams is None else address(streams, 0, count, hidden),
            ctypes.addressof(found),
            None if chances is None else ctypes.addressof(chances),
            *(part.slot, position, count, part.wanted, likely, part.guesses, self.skip),
        )
        cache.extend(part.slot, count)
        code = self._library.lk_continue(self._handle, model.ref, store.ref, byref(rows))
        if code:
            cache.truncate(part.slot, position)
            raise self._refusal(Status(code), model.config, count)
        return list(found)

    def _refusal(self, status: Status, config: ModelConfig, rows: int) -> Exception:
        """The error that says what was wrong with a call."""
        return {
            Status.TOKEN_OUTSIDE: IndexError(f"token ids must lie in 0..{config.vocab_size - 1}."),
            Status.ROWS_DO_NOT_FIT: CacheError(
                "rows must go on where their slots end, one span after another."
            ),
            Status.WANTED_OUTSIDE: IndexError(f"wanted rows must lie in 0..{rows - 1}."),
            Status.NO_MEMORY: MemoryError("the fused decoder found no memory for a pass."),
            Status.FEATURES_DIFFER: ValueError(
                "a draft head reads features beside its tokens, other models do not."
            ),
            Status.NO_TREE: ValueError(
                "a tree's first row follows none, each other one an earlier one."
            ),
            Status.SPAN_TOO_LONG: CacheError(
                "rows of a part that is not causal go through a layer together, at most "
                f"{self._library.lk_slice_rows()} of them: send fewer in a part."
            ),
            Status.OTHER_MODEL: CacheError(
                "the cache is one of another model: take one that the decoder's own new_cache made."
            ),
            Status.NOT_FINITE: ModelError(NOT_NUMBERS),
            Status.NO_BLOCK: CacheError("the cache's table names blocks that it does not have."),
            Status.BEYOND_HALF: ModelError(
                "a key or a value of this model is larger than float16 can hold (65,504): take a "
                "cache of float32, as new_cache(slots, capacity, torch.float32) makes it."
            ),
        }[status]
