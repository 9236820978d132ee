"""What a draft head must do to draft, in PyTorch or as a native call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from labkit.model.cache.table import Cache
from labkit.model.config import ModelConfig
from labkit.model.rows import Rows


class HeadForward(Protocol):
    """A head over a cache of its own: the plain one or the fused one."""

    @property
    def config(self) -> ModelConfig:
        """The target's, with one layer."""

    def new_cache(self, slots: int, capacity: int) -> Cache:
        """An empty cache of the kind that this head reads."""

    def traced(self, rows: Rows, cache: Cache, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the wanted rows, (wanted, words), and the streams of all, (rows, hidden).

        features (rows, hidden): the target's stream, or the head's own, before each token.
        """

    def guesses(
        self,
        tokens: Sequence[int],
        cache: Cache,
        count: int,
        streams: Tensor,
        features: Tensor,
        first: int,
    ) -> tuple[list[int], list[float]]:
        """The `count` likeliest words after the last of `tokens`, and their probabilities.

        The tokens are appended to slot 0. Their streams are written to streams (room, hidden).
        Their features are read from features (any, hidden), from row `first` on.
        """
