"""Tokens of a GGUF file's own tokenizer are llama.cpp's."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.errors import ModelError
from labkit.model.gguf_header import GgufFile
from labkit.model.gguf_tokenizer import CUTS, build_tokenizer, check_tokenizer
from tests.mixed_text import digest, files, finish, mixed_text, writer_of

# Printed by `python -m tests.mixed_text`, by llama.cpp as llama-cpp-python 0.3.36 builds it.
LLAMA_CPP = {
    "gpt-2": "4590a56dbe903c97",
    "smollm": "dc54a01a078e2791",
    "starcoder": "dc54a01a078e2791",
    "refact": "dc54a01a078e2791",
    "command-r": "dc54a01a078e2791",
    "llama-bpe": "3dcd099cb0239d7e",
    "llama3": "3dcd099cb0239d7e",
    "llama-v3": "3dcd099cb0239d7e",
    "qwen2": "49d4032c5873a2d3",
    "deepseek-r1-qwen": "49d4032c5873a2d3",
    "dbrx": "49d4032c5873a2d3",
    "smaug-bpe": "49d4032c5873a2d3",
    "gpt-4o": "d227652c3c362136",
    "sentencepiece": "a85c9fbd3251846a",
    "sentencepiece, no prefix": "2e8f3a11f3d89332",
}


def test_every_way_to_cut_was_compared() -> None:
    assert set(CUTS) < set(LLAMA_CPP)
    assert 90_000 < len(mixed_text().encode()) < 200_000


def test_tokens_are_llama_cpps(tmp_path: Path) -> None:
    text = mixed_text()
    found = {
        name: digest(build_tokenizer(GgufFile(file)).encode(text, add_special_tokens=True))
        for name, file in files(tmp_path)
    }
    assert found == LLAMA_CPP


@pytest.mark.parametrize(
    ("kind", "pre", "words"),
    [
        ("bert", None, "kind 'bert', which is not read; read: gpt2, llama"),
        ("gpt2", "unheard-of", "in the way 'unheard-of'.*known: gpt-2, smollm"),
        ("gpt2", None, "in the way None"),
        ("gpt2", "qwen2", "lacks the key tokenizer.ggml.merges"),
        ("llama", None, "lacks the key tokenizer.ggml.scores"),
    ],
)
def test_other_tokenizers_are_refused_by_name(
    tmp_path: Path, kind: str, pre: str | None, words: str
) -> None:
    writer = writer_of(tmp_path / "odd.gguf", kind)
    writer.add_token_list(["a", "b", "c"])
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    finish(writer)
    with pytest.raises(ModelError, match=words):
        check_tokenizer(GgufFile(tmp_path / "odd.gguf"))


def test_a_file_without_a_tokenizer(tmp_path: Path) -> None:
    writer = writer_of(tmp_path / "none.gguf", "gpt2")
    finish(writer)
    with pytest.raises(ModelError, match="has no tokenizer"):
        check_tokenizer(GgufFile(tmp_path / "none.gguf"))
