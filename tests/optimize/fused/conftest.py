"""Tiny models in the kernel's formats, and the decoders over them."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.optimize.fused import load_fused
from tests.conftest import make_reference
from tests.fused_helpers import SIZES, tiny_gguf

CASES = [
    ("llama", "Q4_1"), ("llama-tied", "Q8_0"), ("llama-mha", "Q4_0"), ("qwen2", "Q8_0"),
    ("qwen2-tied", "Q4_1"), ("qwen3", "Q4_0"), ("llama-wide-heads", "Q8_0"), ("qwen3", "Q5_0"),
    ("qwen2-tied", "Q5_0"), ("gemma3", "Q8_0"), ("phi3-window", "Q4_1"), ("phi4-mini", "Q8_0"),
    ("smollm3", "Q4_0"), ("olmo2", "Q8_0"), ("granite", "Q4_1"), ("qwen3-moe", "Q8_0"),
    ("qwen3-moe", "Q4_1"),
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    made: dict[tuple[str, str], Path] = {}

    def make(name: str, kind: str) -> Path:
        if (name, kind) not in made:
            folder = tmp_path_factory.mktemp("tiny")
            made[name, kind] = tiny_gguf(folder / f"{name}.gguf", name, kind)
        return made[name, kind]

    return make


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request, files):
    """(file, fused decoder) of each family and format in turn."""
    file = files(*request.param)
    return file, load_fused(file, threads=2)


@pytest.fixture(scope="module")
def fused(files):
    return load_fused(files("llama", "Q4_1"), threads=2)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A tiny model whose weights can be rounded."""
    make_reference("llama", **SIZES).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"
