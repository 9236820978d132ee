"""Decoders and sessions for the tests of `labkit.fast`: one that answers with a known text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from labkit.engine.row_costs import RowCosts
from labkit.fast.chosen import Chosen
from labkit.fast.session import Fastest
from labkit.model.cache.paged import PagedCache
from labkit.model.cache.paged_store import PagedTensorStore
from labkit.model.rows import Rows
from tests.speculative_stubs import COSTS
from tests.tiny import CONFIG


class Letters:
    """A tokenizer without a chat template: a token is a letter."""

    chat_template = None

    def encode(self, text: str, **_: object) -> list[int]:
        return [ord(letter) % 97 for letter in text]

    def decode(self, tokens: Sequence[int], **_: object) -> str:
        return "".join(chr(0x4E00 + token) for token in tokens)


class Told:
    """A decoder whose greedy answer to a prompt of `prompt` tokens is a known one, then zeros.

    breaks: raises this error in the pass of that number, once.
    """

    def __init__(
        self, prompt: int, answer: Sequence[int], vocab: int, eos: Sequence[int] = ()
    ) -> None:
        self.config = replace(CONFIG, vocab_size=vocab, eos_ids=tuple(eos))
        self.whole = [*[0] * prompt, *answer]
        self.passes = 0
        self.breaks: tuple[int, BaseException] | None = None

    def new_paged_cache(self, slots: int, blocks: int) -> PagedCache:
        return PagedCache(PagedTensorStore(self.config, slots, blocks), slots)

    def __call__(self, rows: Rows, cache: Any) -> Tensor:
        cache.reserve(rows)
        self.passes += 1
        if self.breaks is not None and self.passes == self.breaks[0]:
            raise self.breaks[1]
        logits = torch.zeros(len(rows.asked), self.config.vocab_size)
        for row, asked in enumerate(rows.asked):
            at = rows.at[asked] + 1
            logits[row, self.whole[at] if at < len(self.whole) else 0] = 1.0
        return logits


def chosen(decoder: Any, tokenizer: Any = None, **more: Any) -> Chosen:
    """A decoder as `choose` gives one."""
    given: dict[str, Any] = {"device": torch.device("cpu"), "threads": 1} | more
    return Chosen("tiny decoder", "tiny", decoder, tokenizer or Letters(), **given)


def session(
    decoder: Any, tokenizer: Any = None, costs: RowCosts | None = COSTS, **more: Any
) -> Fastest:
    """A session with drafts, unless costs are None."""
    return Fastest(chosen(decoder, tokenizer), costs, **more)
