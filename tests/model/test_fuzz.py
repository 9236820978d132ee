"""Some hundred damaged models (tests/fuzzing.py tries as many as one likes)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import make_reference
from tests.fused_helpers import SIZES, tiny_gguf
from tests.fuzzing import directory_case, gguf_case


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("name", ["llama", "qwen2-tied", "qwen3", "gemma3", "phi4-mini"])
def test_damaged_gguf_files(tmp_path: Path, name: str) -> None:
    file = tiny_gguf(tmp_path / "tiny.gguf", name, "Q4_1")
    found = Counter(gguf_case(file, tmp_path, seed) for seed in range(400))
    assert found["refused"] > 50  # what is changed matters
    assert found["same"] > 10  # and not everything is refused


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("name", ["llama-tied", "qwen2", "qwen3", "gemma3", "granite"])
def test_damaged_directories(tmp_path: Path, name: str) -> None:
    make_reference(name, **SIZES).save_pretrained(tmp_path / "tiny")
    found = Counter(directory_case(tmp_path / "tiny", tmp_path, seed) for seed in range(40))
    assert found["refused"] > 5
    assert found["same"] > 2
