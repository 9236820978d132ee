"""The learned head at work: drafts from the target's streams, as long as a token is worth it."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from labkit.errors import ParameterError
from labkit.model.config import ModelConfig
from labkit.model.decoder import Decoder
from labkit.model.rows import Rows
from labkit.optimize.fused import FusedDecoder
from labkit.optimize.fused.pack import format_of, to_blocks
from labkit.optimize.fused.weights import pack, read
from labkit.optimize.speculative.costs import RowCosts
from labkit.optimize.speculative.draft import NOTHING, Draft, Proposal
from labkit.optimize.speculative.head import Head

_LONGEST_REST = 16  # passes between two asks of a head that has nothing worth its cost


class HeadForward(Protocol):
    """A head that runs over a cache: the plain one or the fused one."""

    config: ModelConfig

    def traced(self, rows: Rows, cache: Any, features: Tensor) -> tuple[Tensor, Tensor]: ...

    def new_cache(self, slots: int, capacity: int) -> Any: ...


class PlainHead:
    """The head in PyTorch over a cache: the twin of the fused one, and what serves elsewhere."""

    def __init__(self, head: Head, target: Decoder) -> None:
        self.head, self.target, self.config = head, target, head.config

    def new_cache(self, slots: int, capacity: int) -> Any:
        from labkit.model.cache import StaticCache

        return StaticCache(self.config, slots, capacity, self.target.dtype, self.target.device)

    @torch.inference_mode()
    def traced(self, rows: Rows, cache: Any, features: Tensor) -> tuple[Tensor, Tensor]:
        """(logits over the head's ids of the wanted rows, streams of all rows)."""
        cache.reserve(rows)
        embedded = self.head.token_norm(self.target.embed_tokens(rows.tokens))
        x = self.head.fuse(torch.cat((embedded, self.head.feature_norm(features)), dim=-1))
        streams = self.head.layer(x, self.target.rope(rows.positions), rows, cache)
        return self.head.logits(streams[rows.wanted]), streams


def fused_head(head: Head, target: FusedDecoder, directory: Path) -> FusedDecoder:
    """The head as one native call a pass, at 8 bits, over the target's own embedding.

    directory: the model's, whose config.json it is described by.
    """
    raw = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    raw |= {"num_hidden_layers": 1, "tie_word_embeddings": False}
    form = format_of("q8_0")

    def tensors() -> Iterator[tuple[str, np.ndarray, str]]:
        for name, tensor in head.state_dict().items():
            if name == "ids":
                continue
            data = tensor.float().numpy()
            name = "lm_head.weight" if name == "words" else name.replace("layer.", "layers.0.", 1)
            matrix = data.ndim == 2
            yield name, to_blocks(data, form) if matrix else data, form.name if matrix else ""

    with tempfile.TemporaryDirectory() as folder:
        pack(raw, tensors(), Path(folder) / "head")
        weights = read(Path(folder) / "head")
    return FusedDecoder(weights, target.threads, target.isa, embedding_of=target)


class LearnedHead(Draft):
    """Drafts with a learned head, one token after another from its own foreseen streams.

    ids (words,): the tokens that its logits stand for. costs and pass_cost (of one pass of the
    head, in passes of the target) let it stop where one more token would lower the expected gain:
    the head's own probability is a good guess of acceptance (EAGLE-2, Li et al., 2406.16858), and
    how good is learned on the way. Without costs it drafts as many as it is asked for.
    """

    def __init__(
        self,
        head: HeadForward,
        ids: Tensor,
        costs: RowCosts | None = None,
        pass_cost: float = 0.0,
        name: str = "learned head",
    ) -> None:
        self.head, self.name = head, name
        self.ids: list[int] = ids.tolist()
        self.costs, self.pass_cost = costs, pass_cost
        self.passes = 0  # of the head, since it was made
        self._cache: Any = None
        self._room = 0

    @property
    def asking(self) -> float:
        """What the head has cost so far, in passes of the target."""
        return self.passes * self.pass_cost

    def check(self, config: ModelConfig) -> None:
        ours, theirs = self.head.config, config
        if (ours.hidden_size, ours.vocab_size) != (theirs.hidden_size, theirs.vocab_size):
            raise ParameterError(
                f"{self.name} was trained for streams of {ours.hidden_size} and a vocabulary of "
                f"{ours.vocab_size}; the target has {theirs.hidden_size} and {theirs.vocab_size}."
            )

    def begin(self, context: Sequence[int], most: int) -> None:
        if self._cache is None or self._room < most:
            self._cache, self._room = self.head.new_cache(1, most), most
        self._cache.truncate(0, 0)
        self._unread: list[Tensor] = []
        self._read = 0  # places whose feature is the target's, and in the cache
        self._trust, self._hits, self._hoped = 1.0, 0.0, 0.0
        self._asked: tuple[int, list[int], list[float]] = (0, [], [])
        self._rest = self._resting = 0

    def observe(self, features: Tensor) -> None:
        """The target's streams (rows, hidden) of the next tokens of the context."""
        self._unread.append(features)

    def propose(self, context: Sequence[int], limit: int) -> Proposal:
        self._learn(context)
        limit = min(limit, self._room - len(context))
        if self._resting > 0 or limit < 1:
            self._resting -= 1
            return NOTHING
        tokens, chances = self._draft(context, limit)
        self._rest = 0 if tokens else min(2 * self._rest + 1, _LONGEST_REST)
        self._resting = self._rest
        self._asked = len(context), tokens, chances
        return Proposal(tokens) if tokens else NOTHING

    def _draft(self, context: Sequence[int], limit: int) -> tuple[list[int], list[float]]:
        self._cache.truncate(0, self._read)
        known = torch.cat(self._unread)
        rows = Rows.prefill(context[self._read + 1 :], start=self._read)
        logits, streams = self._pass(rows, known)
        self._unread, self._read = [], len(context) - 1
        tokens: list[int] = []
        chances: list[float] = []
        gained = reaches = 1.0
        while True:
            word, chance = _likeliest_with_chance(logits[-1].numpy())
            reaches *= min(1.0, self._trust * chance)
            if not self._pays(len(tokens), reaches, gained):
                return tokens, chances
            gained += reaches
            tokens.append(self.ids[word])
            chances.append(chance)
            if len(tokens) == limit:
                return tokens, chances
            at = Rows.prefill(tokens[-1:], start=len(context) + len(tokens) - 2)
            logits, streams = self._pass(at, streams[-1:])

    def _pass(self, rows: Rows, features: Tensor) -> tuple[Tensor, Tensor]:
        self.passes += 1
        return self.head.traced(rows, self._cache, features)

    def _pays(self, drafted: int, reaches: float, gained: float) -> bool:
        """Whether one more token raises the expected tokens for the time; its own draft is paid."""
        if self.costs is None:
            return True
        if drafted + 2 > self.costs.most:
            return False
        spent = self.costs.r(drafted + 1) + self.pass_cost * (drafted + 1)
        more = self.costs.r(drafted + 2) - self.costs.r(drafted + 1)
        # Without a draft there is one token for a pass: what was spent on asking is gone anyway.
        return reaches * spent > gained * max(more, 0.0)

    def _learn(self, context: Sequence[int]) -> None:
        """Hold the last drafts against what came, and with them the head's own chances."""
        start, tokens, chances = self._asked
        for own, token, chance in zip(context[start:], tokens, chances, strict=False):
            self._hits = 0.97 * self._hits + (own == token)
            self._hoped = 0.97 * self._hoped + chance
            if own != token:
                break
        self._asked = (0, [], [])
        self._trust = (self._hits + 4) / (self._hoped + 4)


def head_cost(head: HeadForward, costs: RowCosts, context: int = 256, repeats: int = 40) -> float:
    """Time of one drafted token, in passes of one row of the target: median of `repeats`."""
    cache = head.new_cache(1, context + 1)
    features = torch.randn(context, head.config.hidden_size)
    head.traced(Rows.prefill([0] * context), cache, features)
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        logits, _ = head.traced(Rows.prefill([0], start=context), cache, features[-1:])
        _likeliest_with_chance(logits[-1].numpy())
        taken.append(time.perf_counter() - began)
        cache.truncate(0, context)
    return float(np.median(taken)) / costs.seconds


def _likeliest_with_chance(logits: np.ndarray) -> tuple[int, float]:
    """The most likely word of logits (words,) and its probability."""
    word = int(logits.argmax())
    return word, float(1 / np.exp(logits - logits[word]).sum())
