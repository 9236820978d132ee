"""Findings: what may be recorded, and that it comes back as it was written."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from labkit.report.told import words
from labkit.report.told.finding import Finding, load_findings
from labkit.report.told.notebook import current_run, save_findings, save_samples
from tests.browser_helpers import finding


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder of its own."""
    monkeypatch.setenv("LABKIT_RUN_DIR", str(tmp_path))
    return tmp_path


def test_keys_and_their_order_are_those_of_the_contract() -> None:
    assert [entry.name for entry in fields(Finding)] == [
        "notebook", "technique", "variant", "baseline", "phase", "metric", "unit", "value",
        "baseline_value", "speedup", "speedup_low", "speedup_high", "verdict", "limit",
        "fraction_of_limit", "limit_note", "quality", "samples", "workload", "model", "hardware",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"phase": "warm-up"}, "prefill, decode, end_to_end"),
        ({"verdict": "maybe"}, "faster, slower, inconclusive"),
        ({"metric": "speediness"}, "decode_rate"),
        ({"value": float("nan")}, "value must be finite"),
        ({"baseline_value": -1.0}, "baseline_value must be finite and not negative"),
        ({"fraction_of_limit": float("inf")}, "fraction_of_limit must be finite"),
        ({"speedup": 0.0}, "speedup must be a positive"),
        ({"speedup_high": 3.0}, "outside its own interval"),
        ({"speedup_low": 3.2}, "outside its own interval"),
        ({"limit": None, "fraction_of_limit": None}, "needs a limit_note"),
        ({"limit": None, "limit_note": "none"}, "together or not at all"),
    ],
)
def test_refuses_what_cannot_be_true(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        finding(**changes)


def test_goodput_of_nothing_is_a_finding() -> None:
    assert finding(metric="goodput", unit="req/s", value=0.0).value == 0


def test_comes_back_as_it_was_saved(run: Path) -> None:
    written = [finding(), finding(variant="other", workload={"prompt_tokens": 128})]
    path = save_findings("00_good", written)
    assert path == run / "findings" / "00_good.json"
    assert load_findings(path) == written


def test_keys_of_a_later_version_are_ignored(run: Path) -> None:
    path = save_findings("00_good", [finding()])
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([row | {"colour": "blue"} for row in rows]))
    assert load_findings(path) == [finding()]


@pytest.mark.parametrize("content", ["{}", "[1]", "[", '[{"notebook": "x"}]'])
def test_a_file_that_holds_no_findings_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "findings.json"
    path.write_text(content)
    with pytest.raises((ValueError, TypeError)):
        load_findings(path)


def test_findings_of_another_notebook_are_refused(run: Path) -> None:
    with pytest.raises(ValueError, match="00_good cannot be saved as those of 01_timing"):
        save_findings("01_timing", [finding()])
    assert not list(run.rglob("*.json"))


def test_above_the_limit_is_recorded_and_said_loudly(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    too_good = finding(fraction_of_limit=1.2)
    assert finding(fraction_of_limit=1.0).defect is None
    path = save_findings("00_good", [too_good])
    assert "DEFECT: 00_good: static cache (decode) reaches 1.20" in capsys.readouterr().err
    assert load_findings(path)[0].fraction_of_limit == 1.2


def test_samples_are_kept_beside_the_findings(run: Path) -> None:
    path = save_samples("00_good", "rounds", {"times": [0.1, 0.2]})
    assert path == run / "traces" / "00_good" / "rounds.json"
    assert json.loads(path.read_text()) == {"times": [0.1, 0.2]}


def test_a_live_session_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABKIT_RUN_DIR", raising=False)
    assert current_run().parts[-2:] == ("outputs", "interactive")


@pytest.mark.parametrize(
    ("fraction", "said"), [(0.614, "61 %"), (1.0, "100 %"), (0.996, "99.6 %"), (0.0012, "0.12 %")]
)
def test_percent_never_rounds_to_nothing_or_to_all(fraction: float, said: str) -> None:
    assert words.percent(fraction).replace("\u00a0", " ") == said


def test_words_of_amounts_and_durations() -> None:
    assert words.amount(0.0172, "s") == "17.2\u00a0ms"
    assert words.amount(1234.5, "tok/s") == "1,234\u00a0tok/s"
    assert [words.times(ratio) for ratio in (1.0, 12.34, 3456.0)] == ["1.00x", "12.3x", "3,456x"]
    assert [words.took(t) for t in (None, 7.4, 125.0)] == ["–", "7 s", "2 min 05 s"]


@pytest.mark.parametrize(
    ("quality", "said"),
    [
        ({"lossless": True}, "same answer"),
        ({"lossless": True, "tokens_compared": 1024}, "same answer (1,024 tokens)"),
        ({"lossless": False}, "other answers"),
        ({"top1_agreement": 0.931, "kl_mean": 0.0123}, "93.1% same top token, KL 0.012"),
        ({"perplexity_ratio": 1.0123}, "perplexity x1.012"),
        ({}, "not stated"),
    ],
)
def test_words_of_what_it_cost_in_answers(quality: dict[str, Any], said: str) -> None:
    assert words.answers(quality).replace("\u00a0", " ") == said


def test_the_headline_is_the_largest_sure_gain() -> None:
    unsure = finding(variant="lucky", speedup=9.0, speedup_high=20.0, verdict="inconclusive")
    said = words.headline([unsure, finding(), finding(notebook="01_timing", variant="other")])
    assert said.startswith("3 findings from 2 notebooks. The largest sure gain: static cache is")
    assert "3.10x as fast as no cache [2.90, 3.30] in decode, at 61" in said
    assert "Nothing was surely faster" in words.headline([unsure])
    assert words.headline([]) == "No findings yet."
