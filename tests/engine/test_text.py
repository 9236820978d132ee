"""Text from tokens, one at a time: the same as from all of them, and never taken back."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer, decoders, models

from labkit.engine.text import ByteText, WindowText, byte_table, detokenizer
from labkit.model.load import LoadedModel

TEXTS = [
    "Plain words, 1 + 1 = 2.\n\n  Indented.", "naïve café – “quoted” …", "语言模型的速度极限",
    "🙂👩‍👩‍👧‍👦 flags 🇪🇺", "\x00\x07 odd \ufffd bytes", "",
]  # fmt: skip


def streamed(reader, tokens) -> str:
    return "".join(reader.feed(token) for token in tokens) + reader.end()


def whole(tokenizer, tokens) -> str:
    return tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_make_the_text(real_model: LoadedModel, text: str) -> None:
    tokenizer = real_model.tokenizer
    tokens = tokenizer.encode(text, add_special_tokens=False)
    assert isinstance(detokenizer(tokenizer), ByteText)
    assert streamed(detokenizer(tokenizer), tokens) == text
    assert streamed(WindowText(tokenizer), tokens) == text


def test_any_tokens_give_what_decoding_them_together_gives(real_model: LoadedModel) -> None:
    """Random tokens are mostly no valid UTF-8, and some are special."""
    tokenizer, rng = real_model.tokenizer, random.Random(0)
    low = [0, 1, 2, *range(100, 400)]  # special tokens, and single bytes
    for _ in range(200):
        choose = rng.choice([low, range(len(tokenizer))])
        tokens = [rng.choice(choose) for _ in range(12)]
        assert streamed(detokenizer(tokenizer), tokens) == whole(tokenizer, tokens)


def test_a_character_is_shown_when_all_its_tokens_are_there(real_model: LoadedModel) -> None:
    tokenizer = real_model.tokenizer
    tokens = tokenizer.encode("👩", add_special_tokens=False)
    assert len(tokens) > 1
    for reader in (detokenizer(tokenizer), WindowText(tokenizer)):
        pieces = [reader.feed(token) for token in tokens]
        assert pieces == [*[""] * (len(tokens) - 1), "👩"]
    assert streamed(detokenizer(tokenizer), tokens[:1]) == "\ufffd"
    assert streamed(WindowText(tokenizer), tokens[:1]) == "\ufffd"


class Spaced:
    """A tokenizer that leaves out the space before a text's first word, as SentencePiece does."""

    def __init__(self) -> None:
        names = ["\u2581a", "\u2581bc", "d", "\u2581", "!"]
        self._own = Tokenizer(models.WordLevel({name: at for at, name in enumerate(names)}))
        self._own.decoder = decoders.Metaspace()

    def decode(self, tokens, skip_special_tokens=True) -> str:
        return self._own.decode(tokens, skip_special_tokens=skip_special_tokens)


def test_a_tokenizer_that_is_not_of_bytes_is_read_through_a_window() -> None:
    tokenizer, rng = Spaced(), random.Random(0)
    assert byte_table(tokenizer) is None
    for _ in range(50):
        tokens = [rng.randrange(5) for _ in range(10)]
        assert streamed(detokenizer(tokenizer), tokens) == tokenizer.decode(tokens)
