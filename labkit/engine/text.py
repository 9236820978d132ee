"""From tokens to text, one token at a time. What is shown never has to be taken back."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

_UNKNOWN = "\ufffd"  # what decoding shows for bytes that are no character, or not yet


class Detokenizer(Protocol):
    """Turns the tokens of one answer into text."""

    def feed(self, token: int) -> str:
        """The text that is certain with this token; "" where a character is not complete yet."""

    def end(self) -> str:
        """The answer is over: the rest of the text."""


class ByteText(Detokenizer):
    """Of a tokenizer whose tokens are bytes (GPT-2, Llama 3, Qwen): a table of them is enough.

    table: the bytes of each token. A token beyond it has no text: models may have more tokens than
    their tokenizers name.
    """

    def __init__(self, table: Sequence[bytes]) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        return self._decoder.decode(self._table[token] if token < len(self._table) else b"")

    def end(self) -> str:
        return self._decoder.decode(b"", True)


class WindowText(Detokenizer):
    """Of any tokenizer: the last tokens are decoded together, with some before them.

    A tokenizer may write a token differently at the beginning of a text (a space is left out), so
    that the tokens before it belong to the window.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._known = 0  # tokens of the window whose text was shown

    def _text(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def feed(self, token: int) -> str:
        self._tokens.append(token)
        whole = self._text(self._tokens)
        return "" if whole.endswith(_UNKNOWN) else self._show(whole)

    def _show(self, whole: str) -> str:
        shown = self._text(self._tokens[: self._known])
        self._tokens = self._tokens[self._known :]
        self._known = len(self._tokens)
        return whole[len(shown) :]

    def end(self) -> str:
        return self._show(self._text(self._tokens))


def detokenizer(tokenizer: Any) -> Detokenizer:
    """For the text of one answer. Special tokens, such as the end of a turn, are not shown."""
    table = byte_table(tokenizer)
    return WindowText(tokenizer) if table is None else ByteText(table)


@cache
def byte_table(tokenizer: Any) -> list[bytes] | None:
    """The bytes of each token; None where the tokenizer's tokens are not simply bytes."""
    from tokenizers.decoders import ByteLevel

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not isinstance(backend.decoder, ByteLevel):
        return None
    added = tokenizer.added_tokens_decoder.items()
    special = {*tokenizer.all_special_ids, *(at for at, token in added if token.special)}
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    return [
        b"" if name is None or at in special else _bytes_of(name) for at, name in enumerate(names)
    ]


def _bytes_of(name: str) -> bytes:
    """A token's bytes; an added token's name may have characters that stand for no byte."""
    values = _byte_values()
    try:
        return bytes(values[character] for character in name)
    except KeyError:
        return name.encode()


@cache
def _byte_values() -> dict[str, int]:
    """GPT-2's characters for bytes: printable ones stand for themselves, the others follow from
    256 on (Radford et al. 2019, encoder.py)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in set(shown)]
    found = {chr(value): value for value in shown}
    return found | {chr(256 + at): value for at, value in enumerate(others)}
