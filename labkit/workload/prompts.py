"""Real text of our own to prompt with, and workloads that change from round to round."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any, Protocol

import numpy as np


class Tokenizer(Hashable, Protocol):
    """What we need of a tokenizer: text to ids."""

    def encode(self, text: str, add_special_tokens: bool = ...) -> list[int]: ...


@dataclass(frozen=True)
class Workload:
    """What is asked: one stream of a prompt and new tokens, or several at once.

    seed fixes which stretches of text the prompts are.
    """

    prompt_tokens: int
    new_tokens: int
    batch: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.prompt_tokens, self.new_tokens, self.batch) < 1:
            raise ValueError(f"tokens and batch must be at least 1: {self}.")

    def describe(self) -> dict[str, Any]:
        """What a finding says of its workload."""
        return asdict(self)


@cache
def prose() -> str:
    """An English text written for this project: a walk through a machine that infers."""
    return resources.files("labkit.workload").joinpath("prose.txt").read_text(encoding="utf-8")


def paragraphs() -> list[str]:
    """The text, paragraph by paragraph."""
    return [part.strip() for part in prose().split("\n\n") if part.strip()]


@cache
def _token_stream(tokenizer: Tokenizer) -> tuple[int, ...]:
    return tuple(tokenizer.encode(prose(), add_special_tokens=False))


def prompt_ids(tokenizer: Tokenizer, tokens: int, number: int = 0, seed: int = 0) -> list[int]:
    """A prompt of exactly `tokens` token ids: another stretch of the text for every number.

    The text is read as a ring, from a place drawn from (seed, number), so that no two rounds ask
    the same and no cache warmed by one can answer another.
    """
    stream = _token_stream(tokenizer)
    start = int(np.random.default_rng([seed, number]).integers(len(stream)))
    turns = (start + tokens) // len(stream) + 1
    return list((stream * turns)[start : start + tokens])


def chat_ids(tokenizer: Any, question: str) -> list[int]:
    """A question in the model's own chat template, ready for its answer."""
    messages = [{"role": "user", "content": question}]
    return list(
        tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    )


def poisson_arrivals(rate: float, count: int, seed: int = 0) -> Sequence[float]:
    """When `count` independent requests are due, in seconds from the start; `rate` a second."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, count)
    return [float(t) for t in np.cumsum(gaps)]
