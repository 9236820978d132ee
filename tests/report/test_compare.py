"""Runs beside each other: what differs, what has an interval, and what has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labkit.errors import FindingsError, ParameterError
from labkit.report import folders
from labkit.report.compare import (
    beside,
    by_name,
    comparison,
    comparison_row,
    differences,
    over,
    when,
)
from labkit.report.told.finding import Finding
from labkit.timing.statistics import interval
from tests.browser_helpers import HOSTILE, entry, finding, write_findings, write_run

SLOW = {"variant": "window", "metric": "ttft", "unit": "s", "limit": 0.05, "limit_low": 0.06}


def finished(folder: Path, *findings: Finding, **more: Any) -> Path:
    write_run(folder, "finished", [entry("00_good")], **more)
    write_findings(folder, list(findings))
    return folder


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """outputs of a project with two runs."""
    monkeypatch.setattr(folders, "project_root", lambda: tmp_path)
    first = [finding(), finding(**SLOW, value=0.2), finding(variant="only here")]
    finished(tmp_path / "outputs" / "one", *first)
    second = [finding(value=46.5), finding(**SLOW, value=0.1)]
    finished(tmp_path / "outputs" / "two", *second, profile="full")
    return tmp_path / "outputs"


def test_two_runs_have_a_column_each_with_intervals(outputs: Path) -> None:
    lines = comparison(["one", "two"]).replace("\u00a0", " ").splitlines()
    assert lines[:2] == ["not the same profile: quick | full", ""]
    assert lines[2].split() == ["one", "two"]
    assert lines[3] == "00_good: static cache / no cache, decode, decode rate"
    columns = lines[2].index("one"), lines[2].index("two")
    told = [(line[: columns[0]].strip(), line[columns[0] : columns[1]].strip(),
             line[columns[1] :].strip()) for line in lines[4:8]]  # fmt: skip
    assert told == [
        ("of the bare read", "86 % [82, 90]", "86 % [82, 90]"),
        ("of its limit", "62 %", "93 %"),
        ("measured", "31 tok/s", "46.5 tok/s (1.50x)"),
        ("speedup", "3.10x [2.90, 3.30]", "3.10x [2.90, 3.30] (1.00x [0.91, 1.10])"),
    ]
    assert [lines[11][i:j].strip() for i, j in ((columns[0], columns[1]), (columns[1], None))] == [
        "200 ms", "100 ms (2.00x)",
    ]  # fmt: skip
    assert "unpaired" in lines[-1]


def test_any_number_of_runs(outputs: Path) -> None:
    finished(outputs / "three", finding(value=15.5), machine="x")
    lines = comparison(["one", "two", str(outputs / "three")]).splitlines()
    head = next(line for line in lines if line.split() == ["one", "two", "three"])
    measured = next(line for line in lines if line.strip().startswith("measured"))
    assert "46.5\u00a0tok/s (1.50x)" in measured[head.index("two") :]
    assert "15.5\u00a0tok/s (0.50x)" in measured[head.index("three") :]
    only = lines[lines.index("00_good: only here / no cache, decode, decode rate") + 3]
    assert only.replace("\u00a0", "_").split() == ["measured", "31_tok/s", "–", "–"]


@pytest.mark.parametrize("names", [[], ["one"]])
def test_fewer_than_two_are_refused(outputs: Path, names: list[str]) -> None:
    words = rf"at least two runs; {len(names)} given. Known are: (one, two|two, one)"
    with pytest.raises(ParameterError, match=words):
        comparison(names)


def test_an_unknown_run_is_refused(outputs: Path) -> None:
    with pytest.raises(ParameterError, match="no run named 'elsewhere'; known are: "):
        comparison(["one", "elsewhere"])


def test_a_run_of_another_schema_is_refused(outputs: Path) -> None:
    (outputs / "two" / "findings.json").write_text("[]")
    with pytest.raises(FindingsError, match="two: findings.json has schema 1; this version"):
        comparison(["one", "two"])


def test_a_run_without_findings_is_told_and_has_dashes(outputs: Path) -> None:
    write_run(outputs / "empty", "unfinished", [])
    said = comparison(["one", "empty"])
    assert "empty has no findings" in said
    assert "31\u00a0tok/s  " in said
    write_run(outputs / "none", "unfinished", [])
    assert comparison(["empty", "none"]).splitlines() == [
        "empty has no findings", "none has no findings",
    ]  # fmt: skip


def test_runs_of_one_name_have_a_column_each(outputs: Path, tmp_path: Path) -> None:
    finished(tmp_path / "elsewhere" / "one", finding())
    said = comparison(["one", str(tmp_path / "elsewhere" / "one")])
    assert "1: one" in said
    assert "2: one" in said
    assert "(1.00x)" in said


def test_a_run_beside_itself_is_refused(outputs: Path) -> None:
    for again in ("two", str(outputs / "two"), str(outputs / "one" / ".." / "two")):
        with pytest.raises(ParameterError, match="is given twice; compare takes different runs"):
            comparison(["one", "two", again])


def test_other_work_is_told_and_not_divided(outputs: Path) -> None:
    for name, tokens in (("short", 64), ("long", 1024), ("short too", 64)):
        finished(outputs / name, finding(workload={"prompt_tokens": tokens}))
    differ = comparison(["short", "long", "short too"])
    line = next(line for line in differ.splitlines() if "not the same work" in line)
    for told in ("prompt_tokens 64", "prompt_tokens 1024"):
        assert told in line
    assert "(1.00x" not in differ
    same = comparison(["short", "short too"])
    assert "not the same work" not in same
    assert "(1.00x)" in same


def test_several_findings_of_one_name_are_all_there(outputs: Path) -> None:
    for name in ("a", "b"):
        finished(outputs / name, finding(value=20.0), finding(value=30.0), finding(value=40.0))
    said = comparison(["a", "b"]).splitlines()
    name = "00_good: static cache / no cache, decode, decode rate"
    at = [said.index(one) for one in (name, f"{name} (2)", f"{name} (3)")]
    told = [said[i + 3].replace("\u00a0", "_").split()[1] for i in at]
    assert told == ["20_tok/s", "30_tok/s", "40_tok/s"]
    assert list(by_name([finding(), finding()])) == [name, f"{name} (2)"]


@pytest.mark.parametrize("file", ["run.json", "findings.json", "environment.json"])
@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"schema": 2, "status": "finished", "findings": [1e400]}',
        b'{"schema": 2.0, "memory_bytes": "much", "device": "x"}',
        b'{"schema": 2, "memory_bytes": 1' + b"0" * 400 + b"}",
    ],
)
def test_a_hostile_file_is_one_line(outputs: Path, file: str, content: bytes) -> None:
    (outputs / "two" / file).write_bytes(content)
    try:
        said = comparison(["one", "two"])
    except FindingsError as error:
        said = str(error)
        assert said.startswith("two: ")
        assert "\n" not in said
    else:  # a run can be told without its environment, and says so
        assert file == "environment.json" or b"2.0" in content
        assert any(word in said for word in ("unknown machine", "unknown model", "memory | x"))


def test_a_terminal_obeys_no_name(outputs: Path) -> None:
    finished(outputs / "odd", finding(variant=f"\x1b[2J\n{HOSTILE}"), model="a\x1b[31m")
    said = comparison(["one", "odd"])
    assert "\x1b" not in said
    assert f"00_good: \ufffd[2J\ufffd{HOSTILE} / no cache" in said


def test_a_rate_of_nothing_divides_nothing() -> None:
    none = finding(metric="goodput", unit="req/s", value=0.0)
    some = finding(metric="goodput", unit="req/s", value=2.0)
    (rows,) = beside([[none], [some]]).values()
    assert rows[2] == ["measured", "0\u00a0req/s", "2\u00a0req/s"]
    tiny = finding(
        metric="tpot", unit="s", value=1e-320, limit=None, limit_low=None, limit_note="x"
    )
    assert comparison_row("x", tiny)["speed"] == 0


def test_the_interval_of_a_ratio_of_speedups_holds_the_true_one_as_often_as_it_says() -> None:
    """Two runs of a technique that is twice as fast: the true ratio of their speedups is 1."""
    draw = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        found = [interval(2 * np.exp(draw.normal(0, 0.05, 8))) for _ in range(2)]
        one, other = (
            finding(speedup=r.value, speedup_low=r.low, speedup_high=r.high) for r in found
        )
        ratio = over(one, other)
        assert ratio.value == pytest.approx(one.speedup / other.speedup)
        held += ratio.low <= 1 <= ratio.high
    assert 0.93 <= held / 400 <= 0.99


def test_what_differs_between_runs_is_told(outputs: Path) -> None:
    stamp = json.loads((outputs / "two" / "environment.json").read_text())
    (outputs / "two" / "environment.json").write_text(json.dumps(stamp | {"device": "GPU"}))
    one, two = outputs / "one", outputs / "two"
    assert differences([one, two, one]) == [
        "machine: Some CPU @ 2.0 GHz, 8 GB of memory | GPU, 8 GB of memory | "
        "Some CPU @ 2.0 GHz, 8 GB of memory",
        "profile: quick | full | quick",
    ]
    assert differences([one, one]) == []


@pytest.mark.parametrize(
    ("stamp", "said"),
    [
        ("2026-11-24T11:08:00+00:00", "24 November 2026, 11:08 UTC"),
        ("2026-11-24T12:08:00+01:00", "24 November 2026, 11:08 UTC"),
        ("yesterday", "unknown time"),
        (None, "unknown time"),
        (5, "unknown time"),
    ],
)
def test_moments_are_told_in_one_time_zone(stamp: object, said: str) -> None:
    assert when(stamp) == said
