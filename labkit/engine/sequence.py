"""A request as an object: it plans its next rows, and takes the answer of the pass to them.

What runs passes drives such objects: `generate` and `speculate` drive one, the writer of training
text many in one pass. No request knows of the others.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from numbers import Integral
from typing import NamedTuple, Protocol

from torch import Tensor

from labkit.errors import ModelError
from labkit.model.cache.table import Cache
from labkit.model.config import ModelConfig
from labkit.model.rows import Part
from labkit.model.sampling import Sample, greedy, is_greedy


class Answer(NamedTuple):
    """A pass's answer to a part: for each wanted row the likeliest next token, or the logits
    (wanted, vocab) where a request of the pass is not greedy."""

    tokens: list[int]
    logits: Tensor | None = None


class Request(Protocol):
    """One request in a slot of a cache.

    greedy: it needs the likeliest tokens only, no logits. done: it has no more rows to plan.
    """

    @property
    def greedy(self) -> bool: ...

    @property
    def done(self) -> bool: ...

    def plan(self) -> Part:
        """Its rows for the next pass. The pass follows, and then `take`."""

    def take(self, answer: Answer) -> list[int]:
        """Take the answer of the pass; returns the new tokens of the output: at least one, or none
        where the pass read only a part of the prompt."""


def check_lengths(config: ModelConfig, prompt_tokens: int, new_tokens: int) -> None:
    """Raise ModelError for lengths that are no whole numbers from 1 on, or that are above the
    model's context together."""
    whole = isinstance(prompt_tokens, Integral) and isinstance(new_tokens, Integral)
    if not whole or prompt_tokens < 1 or new_tokens < 1:
        raise ModelError(
            f"{prompt_tokens} prompt tokens and {new_tokens} new ones: both must be at least 1, "
            "and whole numbers."
        )
    total = prompt_tokens + new_tokens
    if total > config.max_positions:
        raise ModelError(
            f"{prompt_tokens} prompt tokens and {new_tokens} new ones make {total}; the model's "
            f"context is {config.max_positions}. Shorten the prompt or ask for fewer."
        )


def check_prompt(config: ModelConfig, prompt_ids: Sequence[int], max_new_tokens: int) -> None:
    """Raise ModelError for a prompt that is empty, too long, or not of this vocabulary."""
    check_lengths(config, len(prompt_ids), max_new_tokens)
    try:
        ids = array("q", iter(prompt_ids))
    except (TypeError, OverflowError):  # fractions, texts, or far too large
        ids = array("q", [-1])
    if min(ids) < 0 or max(ids) >= config.vocab_size:
        raise ModelError(
            f"prompt token ids are whole numbers and must lie in 0..{config.vocab_size - 1}."
        )


class Decoding:
    """Plain decoding of a prompt: first the prompt's rows, then one row for each token.

    context: the prompt and the output so far. Between passes its slot holds the first `read` tokens
    of it: all but the last, once the prompt is read. The prompt may be read in chunks. A request
    may also leave its slot and go on in another: `move`.
    """

    def __init__(
        self,
        cache: Cache,
        prompt_ids: Sequence[int],
        max_new_tokens: int,
        *,
        slot: int = 0,
        sampler: Sample = greedy,
        stop_ids: Collection[int] = (),
    ) -> None:
        self.cache, self.slot = cache, slot
        self.context = list(prompt_ids)
        self.total = len(prompt_ids) + max_new_tokens
        self.sampler, self.greedy = sampler, is_greedy(sampler)
        self.stop_ids = frozenset(stop_ids)
        self.done = False
        self.read = 0
        self._upto = 0  # what `read` will be after the pass that was planned last

    @property
    def unread(self) -> int:
        """Rows until its next token."""
        return len(self.context) - self.read

    def move(self, slot: int, read: int) -> None:
        """Go on in a slot that holds the first `read` tokens of the context."""
        if not 0 <= read < len(self.context) or self.cache.length(slot) != read:
            raise ValueError(
                f"slot {slot} holds {self.cache.length(slot)} tokens; a context of "
                f"{len(self.context)} cannot go on there from {read}: one row must be left."
            )
        self.slot, self.read = slot, read

    def plan(self, limit: int | None = None) -> Part:
        """The rows up to the next token, or the first `limit` of them, which get no answer."""
        start, end = self.read, len(self.context)
        if limit is not None:
            end = min(end, start + limit)
        self._upto = end
        return Part(self.slot, start, self.context[start:end], int(end == len(self.context)))

    def take(self, answer: Answer) -> list[int]:
        self.read = self._upto
        if self.read < len(self.context):
            return []
        token = answer.tokens[-1] if answer.logits is None else self.sampler(answer.logits[-1])
        self.context.append(token)
        self.done = token in self.stop_ids or len(self.context) == self.total
        return [token]

    def finish(self, yielded: int) -> None:
        """The request is over after so many tokens of its output; more may have been computed."""
