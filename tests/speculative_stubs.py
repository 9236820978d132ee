"""Drafts that are always right, always wrong, random or broken; a target without a network."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from labkit.engine.row_costs import filled
from labkit.model.cache.static import StaticCache
from labkit.model.config import ModelConfig
from labkit.model.rows import Rows
from labkit.optimize.speculative import Draft, Proposal

# r(1) to r(9), by hand.
COSTS = filled(1.0, {1: 1.0, 2: 1.3, 5: 2.2, 9: 3.6})


class Scripted(Draft):
    """Proposes from a known continuation, each token spoiled with a probability."""

    def __init__(self, text: Sequence[int], wrong: float, vocab: int, seed: int = 0) -> None:
        self.name = "scripted"
        self.text, self.wrong, self.vocab = list(text), wrong, vocab
        self.random = random.Random(seed)
        self.limits: list[int] = []

    def propose(self, context: Sequence[int], limit: int) -> Proposal:
        self.limits.append(limit)
        following = self.text[len(context) : len(context) + limit + 3]  # more than was asked for
        return Proposal([self._spoil(token) for token in following])

    def _spoil(self, token: int) -> int:
        spoiled = self.random.random() < self.wrong
        return (token + self.random.randrange(1, self.vocab)) % self.vocab if spoiled else token


class Bushy(Draft):
    """A random tree in which a known continuation may lie hidden, among tokens that do not come."""

    def __init__(self, text: Sequence[int], vocab: int, seed: int = 0) -> None:
        self.name, self.text, self.vocab = "bushy", list(text), vocab
        self.random = random.Random(seed)

    def propose(self, context: Sequence[int], limit: int) -> Proposal:
        following = self.text[len(context) :]
        tokens: list[int] = []
        parents: list[int] = []
        depths = [0]  # of the context's last token and of each token
        for _ in range(self.random.randint(1, limit)):
            parent = self.random.randrange(-1, len(tokens))
            depth = depths[parent + 1]
            true = depth < len(following) and self.random.random() < 0.5
            tokens.append(following[depth] if true else self.random.randrange(self.vocab))
            parents.append(parent)
            depths.append(depth + 1)
        return Proposal(tokens, parents=tuple(parents))


class Broken(Draft):
    """Raises, or offers what is no token, when it is asked for the `at`-th time."""

    def __init__(self, at: int, offers: list[int] | None = None) -> None:
        self.name, self.at, self.offers, self.asked = "broken", at, offers, 0

    def propose(self, context: Sequence[int], limit: int) -> Proposal:
        self.asked += 1
        if self.asked < self.at:
            return Proposal([1, 2])
        if self.offers is None:
            raise RuntimeError("out of ideas")
        return Proposal(self.offers)


class Markov:
    """A target whose next token depends on the last one only: logits (vocab, vocab)."""

    def __init__(self, logits: Tensor, config: ModelConfig) -> None:
        self.logits, self.config = logits, config

    def __call__(self, rows: Rows, cache: Any) -> Tensor:
        cache.reserve(rows)
        return self.logits[rows.tokens[rows.wanted]]

    def new_cache(self, slots: int, capacity: int) -> StaticCache:
        return StaticCache(self.config, slots, capacity)


class Noted:
    """A forward that keeps the number of rows of every pass."""

    def __init__(self, forward: Any) -> None:
        self.forward, self.config, self.passes = forward, forward.config, []

    def __call__(self, rows: Rows, cache: Any) -> Tensor:
        self.passes.append(len(rows))
        return self.forward(rows, cache)

    def new_cache(self, slots: int, capacity: int) -> Any:
        return self.forward.new_cache(slots, capacity)


def markov_logits(vocab: int, seed: int = 0) -> Tensor:
    """Random logits with clear preferences."""
    return torch.randn(vocab, vocab, generator=torch.Generator().manual_seed(seed)) * 1.5
