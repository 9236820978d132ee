"""Prompts cut from a text of our own: a different one in each round, the same ones in every run."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from typing import Any, Protocol

import numpy as np

from labkit.base.units import shown
from labkit.errors import ParameterError


class Tokenizer(Hashable, Protocol):
    """What prompts need of a tokenizer: from text to token ids."""

    def encode(self, text: str, add_special_tokens: bool = ...) -> list[int]: ...


@dataclass(frozen=True)
class Workload:
    """The work of a model: `batch` streams, each with a prompt and new tokens.

    seed: decides which parts of the text the prompts are. Raises ValueError for a number below 1.
    """

    prompt_tokens: int
    new_tokens: int
    batch: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.prompt_tokens, self.new_tokens, self.batch) < 1:
            raise ValueError(f"tokens and batch must be at least 1: {self}.")

    def describe(self) -> dict[str, Any]:
        """As the `workload` of a finding."""
        return asdict(self)


@cache
def prose() -> str:
    """An English text written for this project: how a machine runs inference."""
    return resources.files("labkit.workload").joinpath("prose.txt").read_text(encoding="utf-8")


def paragraphs() -> list[str]:
    """The paragraphs of `prose`."""
    return [part.strip() for part in prose().split("\n\n") if part.strip()]


@cache
def _token_stream(tokenizer: Tokenizer) -> tuple[int, ...]:
    return tuple(tokenizer.encode(prose(), add_special_tokens=False))


def prompt_ids(tokenizer: Tokenizer, tokens: int, number: int = 0, seed: int = 0) -> list[int]:
    """A prompt of exactly `tokens` token ids: another part of the text for every number.

    It starts at a random position, which depends on (seed, number). After the text's end it goes on
    at the beginning. Prompts differ between rounds, so that no round can reuse the cache of an
    earlier one.
    """
    stream = _token_stream(tokenizer)
    start = int(np.random.default_rng([seed, number]).integers(len(stream)))
    copies = (start + tokens) // len(stream) + 1
    return list((stream * copies)[start : start + tokens])


def chat_ids(tokenizer: Any, question: str) -> list[int]:
    """Token ids of a question in the model's own chat template, up to where the answer begins."""
    messages = [{"role": "user", "content": question}]
    return list(
        tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    )


def check_text(text: str) -> None:
    """ParameterError for a prompt that is empty or no UTF-8."""
    if not text:
        raise ParameterError("the prompt is empty: at least one character is needed.")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ParameterError("the prompt has bytes that are no UTF-8: give it as UTF-8.")


def text_ids(tokenizer: Any, text: str, chat: bool | None = None) -> list[int]:
    """Token ids of what a user asks.

    chat: whether as a question in the model's chat template; None: if it has one. Raises
    ParameterError for an empty text, for one that is no UTF-8, for chat without a template, and
    where the template refuses the question.
    """
    has_template = getattr(tokenizer, "chat_template", None) is not None
    check_text(text)
    if chat and not has_template:
        raise ParameterError("chat was asked for, but the model has no chat template.")
    if not (has_template if chat is None else chat):
        return list(tokenizer.encode(text))
    from jinja2 import TemplateError

    try:
        return chat_ids(tokenizer, text)
    except TemplateError as error:
        raise ParameterError(
            f"the model's chat template refuses the prompt ({shown(str(error))}): leave the "
            "template out."
        ) from error
