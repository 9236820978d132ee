"""A tiny target with a learned head."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from labkit.optimize.fused import load_fused
from labkit.optimize.speculative import (
    Head,
)
from labkit.optimize.speculative.head.own_text import Writer
from tests.fused_helpers import Int8Linear, plain_twin, tiny_gguf


class Letters:
    """A tokenizer without a chat template: a letter is a token."""

    chat_template, bos_token_id, eos_token_id = None, 1, 2

    def encode(self, text: str, **_: object) -> list[int]:
        return [ord(letter) % 97 for letter in text]


class Chatting(Letters):
    chat_template = "there is one"

    def apply_chat_template(self, messages, **_: object) -> str:
        return f"<u>{messages[0]['content']}</u><a>"


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    return load_fused(
        tiny_gguf(tmp_path_factory.mktemp("tiny") / "a.gguf", "llama", "Q8_0"), threads=2
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    decoder = plain_twin(tiny_gguf(tmp_path_factory.mktemp("tiny") / "a.gguf", "llama", "Q8_0"))
    for module in decoder.modules():
        if isinstance(module, Int8Linear):
            module.__class__ = nn.Linear
    return decoder


@pytest.fixture(scope="module")
def texts(fused):
    return list(Writer(fused, Letters(), slots=3, question=9, answer=30).texts(2000))


@pytest.fixture(scope="module")
def head(plain):
    torch.manual_seed(3)
    made = Head.of(plain, torch.randperm(97)[:64])
    return made.eval().requires_grad_(False)
