"""Tokenizers for tests: one token a byte, and one with a chat template of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

END = 1  # the token that ends a turn; no text of ours has this byte


class Bytes:
    """A tokenizer of one token a byte, without a chat template."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())


class Chatting(Bytes):
    """The same with a template: `<role>content`, then the token END."""

    chat_template = "<role>content"

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool, tokenize: bool
    ) -> str:
        assert add_generation_prompt
        assert not tokenize
        said = "".join(f"<{one['role']}>{one['content']}{chr(END)}" for one in messages)
        return f"{said}<assistant>"


class Forgetful(Chatting):
    """A template that shows no earlier answer."""

    def apply_chat_template(
        self, messages: Sequence[Mapping[str, str]], add_generation_prompt: bool, tokenize: bool
    ) -> str:
        return super().apply_chat_template(messages[-1:], add_generation_prompt, tokenize)


def text(tokens: Sequence[int]) -> str:
    return bytes(tokens).decode()
