"""The figure of our arithmetic beside llama.cpp's on one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from labkit.bench import kl, quality
from labkit.errors import ParameterError
from labkit.model.load import default_gguf
from labkit.quality.divergence import Divergence
from tests.tiny import save_tiny_model


def divergence(scale: float, seed: int = 0, positions: int = 600) -> Divergence:
    rng = np.random.default_rng(seed)
    loss = rng.exponential(2.0, positions)
    kl = scale * rng.exponential(1.0, positions)
    return Divergence(kl, rng.random(positions) > scale, loss, loss + kl)


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [(0.001, "smaller than"), (0.004, "larger than"), (0.002, "not told apart from")],
)
def test_the_figure_says_which_is_smaller(ours: float, verdict: str) -> None:
    figure = kl.Figure(default_gguf(), divergence(ours, seed=1), divergence(0.002, seed=2))
    assert figure.verdict == verdict
    value, low, high = figure.ratio
    assert low < value < high
    assert value == pytest.approx(figure.ours.kl.mean() / figure.theirs.kl.mean())
    told = str(figure)
    last = f"{verdict} llama.cpp's: {value:.3f}x [{low:.3f}, {high:.3f}]."
    assert told.endswith(f"The mean KL of fused is {last}")
    assert told.count("  600  ") == 2  # the positions of both
    assert "Q4_1 " in told.splitlines()[0]


def test_all_read_the_same_positions_of_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference is the file, dequantized, through the plain decoder."""
    seen: dict[str, Any] = {}

    class Loaded:
        decoder, tokenizer = "exact", "tokens"

    def diverge(
        names: Sequence[str], source: Any, reference: Any, texts: Any
    ) -> tuple[dict[str, Divergence], dict[str, str]]:
        seen.update(names=tuple(names), file=source.gguf, reference=reference, texts=texts)
        return {name: divergence(0.01) for name in names}, {}

    def loading(*given: object) -> type[Loaded]:
        seen["load"] = given
        return Loaded

    monkeypatch.setattr(kl, "load", loading)
    monkeypatch.setattr(kl, "pieces", lambda *given: given)
    monkeypatch.setattr(quality, "diverge_variants", diverge)
    found = kl.measure("", 1000)
    assert seen == {
        "names": ("fused", "llama.cpp"), "file": default_gguf(), "reference": "exact",
        "texts": ("tokens", "evaluation", 1000), "load": (None, "cpu", "float32"),
    }  # fmt: skip
    assert found.ratio[0] == 1


def test_a_variant_that_cannot_run_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kl, "load", lambda *_: type("Loaded", (), {"tokenizer": 0, "decoder": 0}))
    monkeypatch.setattr(kl, "pieces", lambda *given: given)
    monkeypatch.setattr(
        quality, "diverge_variants", lambda *_: ({}, {"llama.cpp": "it is not installed"})
    )
    done = CliRunner().invoke(kl.main, ["--tokens", "64"])
    assert done.exit_code == 1
    assert done.output == "Error: llama.cpp: it is not installed\n"


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    folder = str(save_tiny_model(tmp_path))
    with pytest.raises(ParameterError, match="no GGUF file"):
        kl.measure(folder, 64)
    with pytest.raises(ParameterError, match="no GGUF file"):
        kl.requantized(folder, "Q4_K_M")
    with pytest.raises(ParameterError, match=r"'Q9' is unknown; allowed: Q4_K_M, "):
        kl.requantized("", "Q9")


def test_a_file_is_requantized_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Path, str]] = []

    def quantize(source: Path, target: Path, kind: str) -> None:
        made.append((source, kind))
        target.write_bytes(b"GGUF")

    def failing(source: Path, target: Path, kind: str) -> None:
        target.write_bytes(b"GG")
        raise ParameterError("no")

    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(kl, "quantize", failing)
    with pytest.raises(ParameterError):
        kl.requantized("", "Q4_K_M")
    monkeypatch.setattr(kl, "quantize", quantize)
    found = [kl.requantized("", "Q4_K_M") for _ in range(2)]
    assert made == [(default_gguf(), "Q4_K_M")]
    assert found[0] == found[1]
    assert [one.name for one in found[0].parent.iterdir()] == [found[0].name]
