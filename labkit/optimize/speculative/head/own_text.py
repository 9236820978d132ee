"""The target's own text, with its streams: what a draft head learns from.

No dataset is needed. Given only the tokens that open a user's turn, a chat model writes the user's
question itself (Magpie, Xu et al., 2406.08464). Then it answers, as in normal use. Many texts are
written at once, each in its own slot of one cache.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm.auto import tqdm

from labkit.engine.passes import Passes, traced
from labkit.engine.sequence import Answer
from labkit.model.forward import Forward, Traced, offers
from labkit.model.rows import Part
from labkit.model.sampling import greedy

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK = "\u241f"  # stands for the question when a chat template is taken apart


@dataclass(frozen=True)
class OwnText:
    """A text, and the target's stream at each of its tokens but the last.

    tokens (n,) int64; features (n - 1, hidden) float16.
    """

    tokens: Tensor
    features: Tensor


class Writing:
    """A request that writes a text in a slot: a question, then the answer to it.

    opening, between: token ids that open a user's turn, and those that end it and open the answer.
    question, answer: the most tokens of each. streams (room, hidden): the text's streams are
    written here. Questions are sampled with `draw`, so that they differ; answers are greedy.
    """

    greedy = False

    def __init__(
        self,
        slot: int,
        opening: Sequence[int],
        between: Sequence[int],
        question: int,
        answer: int,
        stop_ids: frozenset[int],
        streams: Tensor,
        draw: Callable[[Tensor], int],
    ) -> None:
        self.slot, self.done = slot, False
        self._between, self._question, self._answer = between, question, answer
        self._stops, self._streams, self._draw = stop_ids, streams, draw
        self._tokens, self._unread = list(opening), list(opening)
        self._answering, self._written = False, 0  # tokens of this turn

    def plan(self) -> Part:
        start = len(self._tokens) - len(self._unread)
        streams = self._streams[start : len(self._tokens)]
        return Part(self.slot, start, self._unread, streams=streams)

    def take(self, answer: Answer) -> list[int]:
        """The next token, or after the question the tokens that open the answer."""
        assert answer.logits is not None
        token = greedy(answer.logits[-1]) if self._answering else self._draw(answer.logits[-1])
        self._written += 1
        ends = token in self._stops
        if self._answering:
            self._unread = [token]
            self.done = ends or self._written >= self._answer
        elif ends or self._written >= self._question:
            self._unread = list(self._between)
            self._answering, self._written = True, 0
        else:
            self._unread = [token]
        self._tokens += self._unread
        return self._unread

    def text(self) -> OwnText:
        """The text, once it is done."""
        kept = self._streams[: len(self._tokens) - 1].to(torch.float16, copy=True)
        return OwnText(torch.tensor(self._tokens), kept)


def turns(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """Token ids that open a user's turn, and those that end it and open the answer."""
    if getattr(tokenizer, "chat_template", None) is None:
        start = tokenizer.bos_token_id
        return [tokenizer.eos_token_id if start is None else start], tokenizer.encode("\n")
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": _MARK}], add_generation_prompt=True, tokenize=False
    )
    before, after = str(whole).split(_MARK)
    return (
        tokenizer.encode(before, add_special_tokens=False),
        tokenizer.encode(after, add_special_tokens=False),
    )


class Writer:
    """Writes texts with a decoder that shows its streams, `slots` at a time in one cache.

    question, answer: the most tokens of each. Raises ParameterError for a decoder without `traced`.
    """

    def __init__(
        self,
        target: Forward,
        tokenizer: PreTrainedTokenizerBase,
        slots: int = 32,
        question: int = 48,
        answer: int = 176,
        seed: int = 0,
    ) -> None:
        self.opening, self.between = turns(tokenizer)
        self.question, self.answer = question, answer
        self.stops = frozenset(target.config.eos_ids)
        room = len(self.opening) + question + len(self.between) + answer + 1
        self.passes = Passes(target, target.new_cache(slots, room))
        shows = traced(offers(target, Traced), target)
        shape = slots, room, target.config.hidden_size
        self._streams = torch.empty(shape, dtype=shows.dtype, device=shows.device)
        self._generator = torch.Generator().manual_seed(seed)

    def texts(self, tokens: int, minutes: float = math.inf) -> Iterator[OwnText]:
        """Yield finished texts until they have `tokens` tokens in all, or `minutes` are over."""
        growing = [self._new(slot) for slot in range(self.passes.cache.slots)]
        end = time.monotonic() + 60 * minutes
        with tqdm(total=tokens, desc="the target's own text", unit="token") as bar:
            while bar.n < tokens and time.monotonic() < end:
                self.passes.step(growing)
                for writing in [each for each in growing if each.done]:
                    text = writing.text()
                    bar.update(len(text.tokens))
                    self.passes.cache.truncate(writing.slot, 0)
                    growing[writing.slot] = self._new(writing.slot)
                    yield text

    def _new(self, slot: int) -> Writing:
        return Writing(
            slot, self.opening, self.between, self.question, self.answer, self.stops,
            self._streams[slot], self._drawn,
        )  # fmt: skip

    def _drawn(self, logits: Tensor) -> int:
        """One of the fifty likeliest tokens of logits (vocab,)."""
        top = logits.topk(min(50, len(logits)))
        chosen = torch.multinomial(top.values.softmax(-1), 1, generator=self._generator)
        return int(top.indices[chosen])
