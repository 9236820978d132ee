"""The contract: what a decoder does, and what it may offer beyond that.

`Forward` is all that generating, judging and timing need. Each thing that only some decoders can do
has a protocol of its own. There is one way to find out: `offers(decoder, Greedy)` gives the decoder
as one that names its likeliest tokens, or None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from labkit.model.cache.paged import PagedCache
from labkit.model.cache.table import Cache
from labkit.model.config import ModelConfig
from labkit.model.rows import Part, Rows

C = TypeVar("C")


class Forward(Protocol):
    """Rows and a cache in, logits out: the plain decoder, and everything that speeds it up."""

    @property
    def config(self) -> ModelConfig:
        """The shape of the model."""

    def new_cache(self, slots: int, capacity: int) -> Cache:
        """An empty cache of the kind that this decoder reads."""

    def __call__(self, rows: Rows, cache: Cache) -> Tensor:
        """Logits of the wanted rows, (wanted, vocab) float32.

        Raises CacheError, before anything is written, for rows that do not fit the cache.
        """


@runtime_checkable
class Greedy(Protocol):
    """A decoder that names the likeliest tokens itself, faster than by logits."""

    def greedy(self, parts: Sequence[Part], cache: Cache) -> list[list[int]]:
        """For each part, the likeliest token after each of its wanted rows.

        Of equally likely tokens it is the lowest number. Where a part's tokens are `guesses`, the
        answer after a wrong one may be -1. Raises as Forward does.
        """


@runtime_checkable
class Traced(Protocol):
    """A decoder that shows the residual streams from which its logits are computed."""

    @property
    def config(self) -> ModelConfig:
        """The shape of the model."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the streams."""

    @property
    def device(self) -> torch.device:
        """The device of the streams."""

    def new_cache(self, slots: int, capacity: int) -> Cache:
        """As Forward.new_cache."""

    def traced(self, rows: Rows, cache: Cache) -> tuple[Tensor, Tensor]:
        """Logits as Forward gives them, and the streams of all rows, (rows, hidden)."""


@runtime_checkable
class Paged(Protocol):
    """A decoder that reads a cache of blocks: slots take memory as they grow, and may share it."""

    def new_paged_cache(self, slots: int, blocks: int) -> PagedCache:
        """An empty cache of so many blocks of 16 positions, which all slots share.

        A slot holds at most the model's context. Raises CacheError for numbers below 1.
        """


@runtime_checkable
class Weighed(Protocol):
    """A decoder, or a part of one, that knows how many bytes its weights take.

    Packed weights take other bytes than the config and the dtype say: see weights.read_bytes.
    """

    @property
    def weight_bytes(self) -> float:
        """Bytes of weights that a pass of one row reads. An untied embedding table is left out."""


def offers(decoder: object, capability: type[C]) -> C | None:
    """The decoder as one with a capability of this module; None where it lacks that."""
    return decoder if isinstance(decoder, capability) else None
