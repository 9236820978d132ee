"""Random models in known shapes: what the loaders take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from labkit.bench.random_model import make, write
from labkit.errors import ParameterError
from labkit.model.rows import Rows
from labkit.optimize.fused import load_fused

TINY = {
    "hidden": 64, "intermediate": 96, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 16,
    "vocab": 49_160,
}  # fmt: skip


def test_a_random_model_runs(tmp_path: Path) -> None:
    write(TINY, tmp_path / "tiny.gguf")
    fused = load_fused(tmp_path / "tiny.gguf", threads=1)
    found = fused(Rows.prefill(range(9)), fused.new_cache(1, 9))
    assert found.shape == (1, TINY["vocab"])
    assert torch.isfinite(found).all()


@pytest.mark.parametrize(("name", "kind"), [("gpt-5", "Q4_K_M"), ("qwen2.5-0.5b", "Q9")])
def test_unknown_shapes_and_formats_are_named(tmp_path: Path, name: str, kind: str) -> None:
    with pytest.raises(ParameterError, match="is unknown; allowed"):
        make(name, kind, tmp_path / "none.gguf")
