"""The fused decoder: a whole pass in one native call, over quantized blocks.

It speaks the plain decoder's forward contract, ragged rows and cache slots, and is batch-invariant:
a row's logits are the same bits whatever other rows share its pass.
"""

from __future__ import annotations

import ctypes
import math
import weakref
from collections.abc import Sequence
from ctypes import byref
from typing import Any, NoReturn

import torch
from torch import Tensor

from labkit.memory import allocate
from labkit.model.cache import CacheError, Slots
from labkit.model.config import ModelConfig
from labkit.model.decoder import rope_frequencies
from labkit.model.rows import Rows, Span
from labkit.optimize.fused import native
from labkit.optimize.fused.pack import LANES, FusedError, format_of
from labkit.optimize.fused.screen import SCREEN, SCREEN_ERROR
from labkit.optimize.fused.weights import EMBEDDING, PackedWeights

# What a pass can leave out when shares of its time are told (kernel/forward.h).
SKIP = {"attention": 1, "head": 2, "products": 4, "rest": 8}
FUSE = "fuse.weight"  # a draft head's own matrix
_TYPES = {torch.float16: 0, torch.float32: 1}


class FusedCache(Slots):
    """Keys and values of `slots` sequences, float16 or float32, laid out for the kernel.

    keys: (layers, slots, kv_heads, capacity / 16, head_dim, 16), sixteen positions side by side;
    values: (layers, slots, kv_heads, capacity, head_dim).
    """

    def __init__(
        self,
        config: ModelConfig,
        slots: int = 1,
        capacity: int = 2048,
        dtype: torch.dtype = torch.float16,
    ) -> None:
        super().__init__(slots)
        if dtype not in _TYPES:
            raise CacheError(f"the fused cache holds float16 or float32, not {dtype}.")
        if capacity < 1:
            raise CacheError(f"a cache needs room for at least one token; {capacity} given.")
        self.capacity = capacity
        blocks = -(-capacity // LANES)
        shape = (config.layers, slots, config.kv_heads, blocks, config.head_dim, LANES)
        # Huge pages here too: a step reads a little of every layer, and each page walk costs.
        self.keys, self.values = (
            torch.from_numpy(allocate(math.prod(shape) * dtype.itemsize)).view(dtype).view(shape)
            for _ in range(2)
        )
        self.values = self.values.view(*shape[:3], blocks * LANES, config.head_dim)
        angles = torch.arange(blocks * LANES)[:, None].float() * rope_frequencies(config)
        self._cosines, self._sines = angles.cos().contiguous(), angles.sin().contiguous()
        self.native = native.Cache(
            *(t.data_ptr() for t in (self.keys, self.values, self._cosines, self._sines)),
            slots,
            blocks * LANES,
            _TYPES[dtype],
        )
        self.native_ref = byref(self.native)

    def lengthen(self, slot: int, count: int) -> None:
        """Make room for rows at the end of a slot, or raise CacheError and change nothing."""
        length = self.length(slot)
        if length + count > self.capacity:
            self._check(Span(slot, length, count, 0), self.capacity)  # raises
        self._lengths[slot] = length + count

    def reserve(self, rows: Rows) -> None:
        """Make room for rows, or raise CacheError and change nothing."""
        self._reserve(rows, self.capacity)

    def truncate(self, slot: int, length: int) -> None:
        """Forget everything from position `length` on."""
        self._shorten(slot, length)

    def _move(self, slot: int, source: int, target: int) -> None:
        (from_block, from_lane), (block, lane) = divmod(source, LANES), divmod(target, LANES)
        self.keys[:, slot, :, block, :, lane] = self.keys[:, slot, :, from_block, :, from_lane]
        self.values[:, slot, :, target] = self.values[:, slot, :, source]

    def fork(self, slot: int) -> int:
        """Copy a slot into a free one and return its number."""
        copy, length = self._free_slot(slot), self.length(slot)
        blocks = -(-length // LANES)
        self.keys[:, copy, :, :blocks] = self.keys[:, slot, :, :blocks]
        self.values[:, copy, :, :length] = self.values[:, slot, :, :length]
        self._lengths[copy] = length
        return copy

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes


def _paths(rows: Rows) -> Tensor | None:
    """The path of every row of a tree through its span, (rows, deepest + 1) int32, -1 beyond it.

    Rows of a chain have -1 alone; None where all are.
    """
    if not any(span.parents for span in rows.spans):
        return None
    paths = [
        span.path(row) if span.parents else [] for span in rows.spans for row in range(span.count)
    ]
    deepest = max(map(len, paths))
    made = [path + [-1] * (deepest - len(path)) for path in paths]
    return torch.tensor(made, dtype=torch.int32)


class FusedDecoder:
    """A decoder of the Llama, Qwen2 or Qwen3 family whose pass is one native call.

    Its threads, those that the weights are laid out for, are kept running between passes. isa: one
    of native.ISAS instead of the best this processor has. screened: the likeliest token of a single
    row, or of a few drafted ones, is found with a smaller copy of the head where there is one
    (screen.py), which changes no token and reads fewer bytes; logits are always the head's.
    embedding_of: a decoder whose embedding this one reads, as a draft head does; its threads run
    this one too, for two pools would spin on each other's cores.
    """

    def __init__(
        self,
        packed: PackedWeights,
        isa: str = "",
        embedding_of: FusedDecoder | None = None,
        screened: bool = True,
    ) -> None:
        if embedding_of is not None:
            isa = embedding_of.isa
            if packed.threads != embedding_of.threads:
                raise ValueError(
                    f"weights laid out for {packed.threads} threads, beside a decoder of "
                    f"{embedding_of.threads}."
                )
        self.config = packed.config
        self.threads: int = packed.threads
        self.screened = screened and packed.has_screen
        self.weight_bytes = packed.read_bytes(self.screened)  # by a greedy step
        self.all_logits_bytes = packed.read_bytes()  # by a step that gives every logit
        self.formats = sorted(
            {e.format for name, e in packed.entries.items() if e.format and name != SCREEN}
        )
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.skip = 0
        self._packed, self._embedding_of = packed, embedding_of  # they keep the memory alive
        self._starts: list[Any] = []  # arrays of addresses that the kernel reads
        self._library = native.library(isa)
        self.isa: str = str(self._library.lk_isa().decode())
        self._layers = (native.Layer * self.config.layers)(
            *(self._layer(i) for i in range(self.config.layers))
        )
        self._model = self._model_struct()
        self._model_ref = byref(self._model)
        self._outputs = packed.entries[packed.head].rows
        self._width = -(-self._outputs // LANES) * LANES
        if embedding_of is not None:
            self._engine: int = embedding_of._engine
        else:
            self._engine = self._library.lk_new(self.threads)
            weakref.finalize(self, self._library.lk_free, self._engine)

    def new_cache(
        self, slots: int, capacity: int, dtype: torch.dtype = torch.float16
    ) -> FusedCache:
        """An empty cache for this model."""
        return FusedCache(self.config, slots, capacity, dtype)

    def __call__(self, rows: Rows, cache: FusedCache) -> Tensor:
        """Logits of the wanted rows, (wanted, vocab) float32.

        Raises CacheError for rows that do not fit the cache and IndexError for a token outside the
        vocabulary or a wanted row that is none; nothing is changed then.
        """
        return self._logits(rows, cache, None, None)

    def traced(
        self, rows: Rows, cache: FusedCache, features: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits as above, and the stream of all rows after the last layer, (rows, hidden).

        features (rows, hidden) float32: what a draft head reads beside the tokens.
        """
        stream = torch.empty(len(rows), self.config.hidden_size)
        return self._logits(rows, cache, features, stream), stream

    @property
    def exact_groups(self) -> int:
        """Groups of sixteen logits that screening left to the head itself, since the start."""
        return int(self._library.lk_exact_groups(self._engine))

    def following(self, token: int, cache: FusedCache, slot: int = 0) -> int:
        """The likeliest token after `token`, which goes to the end of a slot: a greedy step.

        What __call__ on that one row would say, at some 0.3 ms less: making tensors for it and
        looking through its logits costs that much in Python after each pass, for the weights have
        swept everything else out of the processor's caches. Raises as __call__ does.
        """
        return self.continued([token], cache, slot)[0]

    def continued(
        self,
        tokens: Sequence[int],
        cache: FusedCache,
        slot: int = 0,
        parents: Sequence[int] = (),
        streams: Tensor | None = None,
        drafted: bool = False,
    ) -> list[int]:
        """The likeliest token after each of `tokens`, which go to the end of a slot.

        A chain, or with `parents` a tree (rows.Span). streams (positions, hidden) float32: those
        from the first token's position on get the tokens' streams, in their order. drafted: all
        tokens but the first are guesses; of what follows a wrong one -1 may be said, which lets the
        others be found by screening.
        """
        count = len(tokens)
        stream = None if streams is None else self._stream_at(streams, cache.length(slot), count)
        found = (ctypes.c_int64 * count)()
        self._go_on(tokens, parents, cache, slot, count, drafted, None, stream, found, None, 1)
        return list(found)

    def best(self, rows: Rows, cache: FusedCache, streams: Tensor | None = None) -> list[int]:
        """The likeliest token of each wanted row.

        streams (positions, hidden) float32: those from the first row's position on get the rows'
        streams, in their order.
        """
        first = rows.spans[0].start
        stream = None if streams is None else self._stream_at(streams, first, len(rows))
        found = (ctypes.c_int64 * len(rows.asked))()
        self._run(rows, cache, None, stream, None, ctypes.addressof(found))
        return list(found)

    def _stream_at(self, streams: Tensor, first: int, count: int) -> int:
        """The address of row `first`, which `count` streams fit from."""
        hidden = self.config.hidden_size
        room, width = streams.shape
        if width != hidden or room < first + count or streams.dtype is not torch.float32:
            raise ValueError(
                f"streams {tuple(streams.shape)} of {streams.dtype} for positions {first} to "
                f"{first + count - 1}, {hidden} float32 each."
            )
        return streams.data_ptr() + 4 * hidden * first

    def guesses(
        self,
        tokens: Sequence[int],
        cache: FusedCache,
        count: int,
        streams: Tensor,
        features: Tensor | None = None,
        first: int = 0,
    ) -> tuple[list[int], list[float]]:
        """The `count` likeliest tokens after the last of `tokens`, which go to the end of slot 0,
        and their probabilities: what a draft head is asked for.

        streams (room, hidden) float32: takes the tokens' streams. features (any, hidden) float32:
        those of the tokens, from row `first` on; may be `streams`, for a single token. Nothing is
        made here, for after a pass of the target that takes longer than the head's own products.
        """
        count = min(count, self._outputs)
        read = None if features is None else self._stream_at(features, first, len(tokens))
        to = self._stream_at(streams, 0, len(tokens))
        found, chances = (ctypes.c_int64 * count)(), (ctypes.c_float * count)()
        self._go_on(tokens, (), cache, 0, 1, False, read, to, found, chances, count)
        return list(found), list(chances)

    def _go_on(
        self,
        tokens: Sequence[int],
        parents: Sequence[int],
        cache: FusedCache,
        slot: int,
        wanted: int,
        drafted: bool,
        features: int | None,
        stream: int | None,
        *likely: Any,
    ) -> None:
        """The native call for tokens at the end of a slot; likely: where they go, and how many."""
        count, position = len(tokens), cache.length(slot)
        given = (ctypes.c_int64 * count)(*tokens)
        tree = (ctypes.c_int64 * count)(*parents) if parents else None
        cache.lengthen(slot, count)
        code = self._library.lk_go_on(
            *(self._engine, self._model_ref, cache.native_ref, given, tree),
            *(count, position, slot, self.skip, wanted, drafted, features, stream, *likely),
        )
        if code:
            cache.truncate(slot, position)
            self._refuse(code, count)

    def _as_read(self, features: Tensor, rows: int) -> Tensor:
        """As the kernel reads them; ValueError for other than one a row."""
        if features.shape != (rows, self.config.hidden_size):
            raise ValueError(f"features {tuple(features.shape)} for {rows} rows.")
        return features.float().contiguous()

    def _logits(
        self, rows: Rows, cache: FusedCache, features: Tensor | None, stream: Tensor | None
    ) -> Tensor:
        logits = torch.empty(len(rows.asked), self._width)
        to = None if stream is None else stream.data_ptr()
        self._run(rows, cache, features, to, logits, None)
        return logits[:, : self._outputs]

    def _run(
        self,
        rows: Rows,
        cache: FusedCache,
        features: Tensor | None,
        stream: int | None,
        logits: Tensor | None,
        best: int | None,
    ) -> None:
        """The native call; what it gives goes where these lead."""
        if features is not None:
            features = self._as_read(features, len(rows))
        cache.reserve(rows)
        spans = [n for s in rows.spans for n in (s.slot, s.start, s.count, s.first_row)]
        count, asked = len(rows), len(rows.asked)
        numbers = (ctypes.c_int64 * (2 * count + asked + len(spans)))(
            *rows.ids, *rows.at, *rows.asked, *spans
        )
        tokens = ctypes.addressof(numbers)
        positions = tokens + 8 * count
        wanted = positions + 8 * count
        paths = _paths(rows)
        given = native.Rows(
            tokens,
            positions,
            wanted,
            wanted + 8 * asked,
            None if features is None else features.data_ptr(),
            stream,
            best,
            None,
            None if paths is None else paths.data_ptr(),
            None,
            count,
            asked,
            len(rows.spans),
            self.skip,
            0 if paths is None else paths.shape[1],
            1,
        )
        to = None if logits is None else logits.data_ptr()
        code = self._library.lk_forward(
            self._engine, self._model_ref, cache.native_ref, byref(given), to
        )
        if code:
            for span in rows.spans:
                cache.truncate(span.slot, span.start)
            self._refuse(code, count)

    def _refuse(self, code: int, rows: int) -> NoReturn:
        if code == 1:
            raise IndexError(f"token ids must lie in 0..{self.config.vocab_size - 1}.")
        if code == 2:
            raise CacheError("rows must go on where their slots end, one span after another.")
        if code == 3:
            raise IndexError(f"wanted rows must lie in 0..{rows - 1}.")
        if code == 5:
            raise ValueError("a draft head reads features beside its tokens, other models do not.")
        if code == 6:
            raise ValueError("a tree's first row follows none, each other one an earlier one.")
        raise MemoryError("the fused decoder found no memory for a pass.")

    def _vector(self, name: str) -> int | None:
        return self._packed.addresses(name)[0] if name in self._packed.entries else None

    def _matrix(self, name: str) -> native.Matrix:
        """Of a weight's name; its bias beside it where the model has one."""
        entry, place = self._packed.entries[name], self._packed.places[name]
        bias = self._vector(name.removesuffix("weight") + "bias")
        starts = (ctypes.c_void_p * self.threads)(*self._packed.addresses(name))
        self._starts.append(starts)
        return native.Matrix(
            ctypes.addressof(starts), bias, place.stride,
            entry.rows, entry.columns, format_of(entry.format).number, place.share,
        )  # fmt: skip

    def _embedding(self) -> native.Matrix:
        owner = self._embedding_of
        return self._matrix(EMBEDDING) if owner is None else owner._matrix(EMBEDDING)

    def _layer(self, number: int) -> native.Layer:
        at = f"layers.{number}"
        norms = (
            *("input_layernorm", "post_attention_layernorm"),
            *("self_attn.q_norm", "self_attn.k_norm"),
        )
        matrices = (
            *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "o")),
            *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
        )
        return native.Layer(
            *(self._vector(f"{at}.{name}.weight") for name in norms),
            *(self._matrix(f"{at}.{name}.weight") for name in matrices),
        )

    def _model_struct(self) -> native.Model:
        c = self.config
        try:
            return native.Model(
                c.vocab_size, c.hidden_size, c.intermediate_size, c.layers, c.heads, c.kv_heads,
                c.head_dim, c.sliding_window or 0, c.rms_norm_eps, 0, self._layers,
                self._vector("norm.weight"), self._embedding(),
                self._matrix(self._packed.head), self._vector("token_norm.weight"),
                self._vector("feature_norm.weight"),
                self._matrix(FUSE) if FUSE in self._packed.entries else native.Matrix(),
                self._matrix(SCREEN) if self.screened else native.Matrix(),
                self._vector(SCREEN_ERROR) if self.screened else None,
            )  # fmt: skip
        except KeyError as error:
            raise FusedError(f"the weights lack {error}.") from error
