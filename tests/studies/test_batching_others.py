"""Other engines in notebook 07: who is asked, what is told, and what a finding records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labkit.bench.client import locate
from labkit.studies import batching_others as module
from labkit.studies.batching import Study
from labkit.studies.batching_others import OURS, findings, installed
from tests.fused_helpers import tiny_gguf
from tests.test_notebooks import TINY
from tests.tiny import save_tiny_model

OTHER = "plain"  # stands for a peer: it needs no installation


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("model") / "llama.gguf", "llama", "Q4_1")


def study_of(model: Path, **changes: Any) -> Study:
    return Study(model=str(model), device="cpu", **TINY["07_batching"] | changes)


def test_engines_stand_beside_ours_with_the_same_prompts(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "PEERS", (OTHER,))
    study = study_of(file, slots=3)
    study.beside_others()
    said = capsys.readouterr().out
    assert "Output tokens/s of our engine with 3 prompts at once" in said
    assert f" of {OTHER} with " in said
    assert f"Distinct answers to one prompt, at most: {OURS} 1" in said
    found = study.others
    assert found is not None
    assert (found.engines, found.asked.streams, found.failed) == ((OURS, OTHER), (1, 3), {})
    told = {one.variant: one for one in findings(study.lab, found)}
    assert set(told) == {f"{OTHER}, 1 at once", f"{OTHER}, 3 at once"}
    one = told[f"{OTHER}, 3 at once"]
    assert (one.baseline, one.metric, one.unit) == (
        f"{OURS}, 3 at once", "output_throughput", "tok/s",
    )  # fmt: skip
    rate = found.rate(OTHER, 3)
    assert rate is not None
    assert one.value == pytest.approx(rate.value, rel=0.2)  # a mean of times, not of rates
    assert one.speedup == pytest.approx(1 / found.over((OURS, 3), (OTHER, 3)).value)  # type: ignore[union-attr]
    assert one.workload["streams"] == 3
    assert (one.limit, "not known" in one.limit_note) == (None, True)


def test_nobody_is_asked_where_there_is_no_other_engine(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LABKIT_PEERS", str(tmp_path / "none"))
    assert installed(locate(str(file))) == []
    monkeypatch.setattr(module, "PEERS", (OTHER,))
    folder = tmp_path / "model"
    folder.mkdir()
    assert installed(locate(str(save_tiny_model(folder)))) == []  # no GGUF file
    study_of(file, peers=False).beside_others()
    assert "make peers installs them" in capsys.readouterr().out
