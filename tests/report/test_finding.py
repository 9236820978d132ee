"""Findings: what may be recorded, and that it comes back as it was written."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from labkit.report.told.finding import (
    _KINDS,
    SCHEMA,
    Finding,
    from_row,
    load_findings,
    rows_in,
    to_json,
)
from labkit.report.told.notebook import current_run, run_folder, save_findings, save_samples
from tests.browser_helpers import finding

TIME = {"metric": "tpot", "unit": "s"}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder of its own."""
    monkeypatch.setenv("LABKIT_RUN_DIR", str(tmp_path))
    return tmp_path


def test_keys_and_their_order_are_those_of_the_contract() -> None:
    assert SCHEMA == 2
    assert [entry.name for entry in fields(Finding)] == [
        "notebook", "technique", "variant", "baseline", "phase", "metric", "unit", "value",
        "baseline_value", "speedup", "speedup_low", "speedup_high", "verdict", "p_value",
        "smallest_effect", "control_low", "control_high", "limit", "limit_low",
        "fraction_of_limit", "limit_note", "of_bare_read", "of_bare_read_low",
        "of_bare_read_high", "bare_note", "bytes_read", "weights", "samples", "ratios", "quality",
        "workload", "model", "hardware", "engine", "baseline_bytes", "bare_over_limit",
        "bare_over_limit_low", "bare_over_limit_high",
    ]  # fmt: skip
    assert {str(entry.type) for entry in fields(Finding)} == set(_KINDS)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"phase": "warm-up"}, "prefill, decode, end_to_end"),
        ({"verdict": "maybe"}, "faster, slower, inconclusive"),
        ({"metric": "speediness"}, "decode_rate"),
        ({"value": float("nan"), "fraction_of_limit": 0.5}, "value must be finite"),
        ({"baseline_value": -1.0}, "baseline_value must be finite and not negative"),
        ({"fraction_of_limit": float("inf")}, "fraction_of_limit must be finite"),
        ({"speedup": -1.0, "baseline_value": 1.0}, "speedup must be a positive"),
        ({"speedup_high": 3.0}, "the speedup 3.1 lies outside its own interval"),
        ({"speedup_low": 3.2}, "outside its own interval"),
        ({"of_bare_read_low": None}, "the of_bare_read 0.86 lies outside its own interval"),
        ({"of_bare_read_high": 0.85}, "outside its own interval"),
        ({"of_bare_read": -0.1, "of_bare_read_low": -0.2}, "of_bare_read must be a positive"),
        ({"limit": None, "fraction_of_limit": None}, "needs a limit_note"),
        ({"limit": None, "limit_note": "none", "fraction_of_limit": 0.5}, "together or not at"),
        ({"value": 60.0}, "would reach 1.20 of its limit"),
        ({"fraction_of_limit": 0.5}, "limit 50 and fraction 0.5 give 25, not the value 31"),
        ({**TIME, "limit_low": None, "fraction_of_limit": 0.5}, "give 100, not the value 31"),
        ({**TIME, "limit": 20.0, "limit_low": 19.0}, "limit_low 19 s is faster than the limit 20"),
        ({"limit_low": 51.0}, "limit_low 51 tok/s is faster than the limit 50"),
        ({**TIME, "limit": 1.0, "limit_low": None, "fraction_of_limit": 0.0}, "give inf, not"),
        ({"unit": "s"}, "unit 's' is not that of decode_rate; allowed: 'tok/s'"),
        ({"metric": "goodput"}, "unit 'tok/s' is not that of goodput; allowed: 'req/s'"),
        ({"p_value": 1.01}, "p_value must lie between 0 and 1; it is 1.01"),
        ({"p_value": -0.01}, "p_value must lie between 0 and 1"),
        ({"p_value": float("nan")}, "p_value must lie between 0 and 1"),
        ({"of_bare_read": 50.0, "of_bare_read_high": 60.0}, "of_bare_read must be at most 2"),
        ({"of_bare_read_high": float("inf")}, "of_bare_read_high must be a positive number"),
        ({"control_low": 0.0}, "control_low must be a positive number"),
        ({"smallest_effect": float("nan")}, "smallest_effect must be finite"),
        ({"bytes_read": -1.0}, "bytes_read must be finite and not negative"),
        ({"samples": -1}, "samples must be finite and not negative"),
        ({"ratios": [3.0, 0.0]}, "a ratio must be a positive number; it is 0.0"),
        ({"ratios": [-3.0]}, "a ratio must be a positive number"),
        ({"ratios": [float("inf")]}, "a ratio must be a positive number"),
        ({"ratios": [float("nan")]}, "a ratio must be a positive number"),
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


def test_a_file_tells_of_its_run_and_its_schema(tmp_path: Path) -> None:
    path = tmp_path / "findings.json"
    path.write_text(to_json([finding()], {"name": "r", "clean": True}))
    held = json.loads(path.read_text())
    assert list(held) == ["schema", "run", "findings"]
    assert (held["schema"], held["run"]) == (2, {"name": "r", "clean": True})
    assert load_findings(path) == [finding()]


def test_keys_of_a_later_version_are_ignored(run: Path) -> None:
    path = save_findings("00_good", [finding()])
    held = json.loads(path.read_text())
    held["findings"] = [row | {"colour": "blue"} for row in held["findings"]]
    path.write_text(json.dumps(held | {"more": 1}))
    assert load_findings(path) == [finding()]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "f.json is no JSON"),
        ("", "f.json is no JSON"),
        ("\ud800", "f.json is no JSON"),
        ("7", "f.json holds no findings"),
        ('"findings"', "f.json holds no findings"),
        ("null", "f.json holds no findings"),
        ("[]", "f.json has schema 1; this version reads 2"),
        ('[{"notebook": "x"}]', "has schema 1"),
        ("{}", "has schema None"),
        ('{"schema": 3, "findings": []}', "has schema 3"),
        ('{"schema": 2.0, "findings": []}', "has schema 2.0"),
        ('{"schema": 1e400, "findings": []}', "f.json is no JSON"),
        (f'{{"schema": 2{"0" * 400}}}', "f.json is no JSON"),
        ("[" * 100_000, "f.json is no JSON"),
        ("[" * 60 + "]" * 60, "f.json is nested too deep; allowed are 50 levels"),
        ('{"schema": 2}', "holds no list of findings"),
        ('{"schema": 2, "findings": {}}', "holds no list of findings"),
        ('{"schema": 2, "findings": [1]}', "holds no list of findings"),
    ],
)
def test_a_file_that_holds_no_findings_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=said):
        rows_in(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"value": "31"}, "value must be float; it is '31'"),
        ({"value": None}, "value must be float; it is None"),
        ({"limit": [1]}, r"limit must be float \| None"),
        ({"quality": "good"}, "quality must be dict"),
        ({"ratios": {}}, "ratios must be list"),
        ({"ratios": [1.0, "2"]}, "ratios must be list"),
        ({"ratios": [True]}, "ratios must be list"),
        ({"samples": True}, "samples must be int; it is True"),
        ({"value": 10**400}, "value must be finite"),
        ({"variant": 3}, "variant must be str"),
        ({"speedup": 9.0}, "outside its own interval"),
    ],
)
def test_a_row_that_is_no_finding_is_refused(changes: dict[str, Any], said: str) -> None:
    assert from_row(asdict(finding())) == finding()
    with pytest.raises(ValueError, match=said):
        from_row(asdict(finding()) | changes)


def test_a_row_may_lack_only_what_has_a_default() -> None:
    row = asdict(finding())
    del row["engine"]
    assert from_row(row).engine == {}
    del row["verdict"]
    with pytest.raises(ValueError, match="a finding lacks verdict"):
        from_row(row)


def test_findings_of_another_notebook_are_refused(run: Path) -> None:
    with pytest.raises(ValueError, match="00_good cannot be saved as those of 01_timing"):
        save_findings("01_timing", [finding()])
    assert not list(run.rglob("*.json"))


def test_samples_are_kept_beside_the_findings(run: Path) -> None:
    path = save_samples("00_good", "rounds", {"times": [0.1, 0.2]})
    assert path == run / "traces" / "00_good" / "rounds.json"
    assert json.loads(path.read_text()) == {"times": [0.1, 0.2]}
    assert run_folder() == run


def test_a_live_session_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABKIT_RUN_DIR", raising=False)
    assert current_run().parts[-2:] == ("outputs", "interactive")
    assert run_folder() is None
