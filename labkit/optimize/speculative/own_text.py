"""The target's own text, with its streams: what a draft head learns from.

Nobody's dataset is needed: a chat model asked to go on after the words that open a user's turn
writes that turn itself (Magpie, Xu et al., 2406.08464), and then answers it as it will when it
serves. Many texts grow at once, in the slots of one cache.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from labkit.model.rows import Rows
from labkit.model.sampling import likeliest

_MARK = "\u241f"  # stands for the question when a chat template is taken apart


@dataclass(frozen=True)
class OwnText:
    """A text and the target's stream at each of its tokens but the last.

    tokens (n,) int64; features (n - 1, hidden) float16.
    """

    tokens: Tensor
    features: Tensor


@dataclass
class _Growing:
    """A text in a slot: what is to be read next, and how far it has come."""

    tokens: list[int]
    unread: list[int]
    features: list[Tensor] = field(default_factory=list)
    answering: bool = False
    written: int = 0  # tokens of this turn


def turns(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids that open a user's turn, and those that end it and open the answer."""
    if getattr(tokenizer, "chat_template", None) is None:
        start = tokenizer.bos_token_id
        return [tokenizer.eos_token_id if start is None else start], tokenizer.encode("\n")
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": _MARK}], add_generation_prompt=True, tokenize=False
    )
    return tuple(tokenizer.encode(part, add_special_tokens=False) for part in whole.split(_MARK))


class Writer:
    """Writes texts with a fused decoder, `slots` at a time."""

    def __init__(
        self,
        target: Any,
        tokenizer: Any,
        slots: int = 32,
        question: int = 48,
        answer: int = 176,
        seed: int = 0,
    ) -> None:
        self.target, self.slots = target, slots
        self.open, self.between = turns(tokenizer)
        self.question, self.answer = question, answer
        self.stops = frozenset(target.config.eos_ids)
        room = len(self.open) + question + len(self.between) + answer + 1
        self.cache = target.new_cache(slots, room)
        self.generator = torch.Generator().manual_seed(seed)

    def texts(self, tokens: int, minutes: float = math.inf) -> Iterator[OwnText]:
        """Finished texts until they have `tokens` tokens together, or `minutes` are over."""
        growing = [self._new() for _ in range(self.slots)]
        end = time.monotonic() + 60 * minutes
        with tqdm(total=tokens, desc="the target's own text", unit="token") as bar:
            while bar.n < tokens and time.monotonic() < end:
                for slot, done in self._step(growing):
                    bar.update(len(done.tokens))
                    self.cache.truncate(slot, 0)
                    growing[slot] = self._new()
                    yield done

    def _new(self) -> _Growing:
        return _Growing(list(self.open), list(self.open))

    def _step(self, growing: list[_Growing]) -> list[tuple[int, OwnText]]:
        parts = [
            (slot, self.cache.length(slot), text.unread, False) for slot, text in enumerate(growing)
        ]
        rows = Rows.of(parts)
        logits, streams = self.target.traced(rows, self.cache)
        following = likeliest(logits)
        asking = [slot for slot, text in enumerate(growing) if not text.answering]
        for slot, token in zip(asking, self._draw(logits[asking]), strict=True):
            following[slot] = token
        finished = []
        for slot, (text, span) in enumerate(zip(growing, rows.spans, strict=True)):
            text.features.append(streams[span.rows].half())
            if self._grow(text, following[slot]):
                kept = torch.cat(text.features)[: len(text.tokens) - 1]
                finished.append((slot, OwnText(torch.tensor(text.tokens), kept)))
        return finished

    def _draw(self, logits: Tensor) -> list[int]:
        """Questions are drawn, so that no two are alike; of the fifty likeliest tokens each."""
        top = logits.topk(50, dim=-1)
        chosen = torch.multinomial(top.values.softmax(-1), 1, generator=self.generator)
        return top.indices.gather(1, chosen)[:, 0].tolist()

    def _grow(self, text: _Growing, token: int) -> bool:
        """Add the next token to a text; True when it is finished."""
        text.written += 1
        ends = token in self.stops
        if text.answering:
            text.tokens.append(token)
            text.unread = [token]
            return ends or text.written >= self.answer
        if ends or text.written >= self.question:
            text.unread = list(self.between)
            text.answering, text.written = True, 0
        else:
            text.unread = [token]
        text.tokens += text.unread
        return False
