"""Findings for other programs: flat rows, CSV that comes back, a DataFrame."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from labkit.errors import LabkitError
from labkit.report.finding import csv_text, flat, to_dataframe
from tests.browser_helpers import HOSTILE, finding, several, write_findings, write_run

AWKWARD = [
    "a,b",
    "two\nlines",
    "two\r\nlines",
    "two\rlines",
    'a "word"',
    "极限速度 é",
    "=1+1",
    " a ",
    "x;y\t",
    HOSTILE,
]


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_what_is_nested_gets_a_dotted_name() -> None:
    row = flat(finding(engine={"name": "x", "build": {"flags": ["-O3"], "cpu": None}}))
    assert row["quality.tokens_compared"] == 64
    assert row["engine.build.flags"] == ["-O3"]
    assert row["engine.build.cpu"] is None
    assert not any(isinstance(value, dict) for value in row.values())


def test_a_row_a_finding_and_a_column_for_all_that_any_has() -> None:
    findings = [*several(), finding(quality={"kl_mean": 0.1, "task_score": 0.5})]
    rows = rows_of(csv_text(findings))
    assert len(rows) == len(findings)
    columns = list(rows[0])
    assert columns[:3] == ["notebook", "technique", "variant"]
    qualities = [column for column in columns if column.startswith("quality.")]
    assert qualities == [
        "quality.lossless", "quality.tokens_compared", "quality.top1_agreement",
        "quality.kl_mean", "quality.task_score",
    ]  # fmt: skip
    at = columns.index(qualities[0])
    assert columns[at : at + 5] == qualities  # together, where the field stands
    assert rows[0]["quality.kl_mean"] == ""
    assert rows[0]["quality.lossless"] == "true"
    assert rows[3]["limit"] == ""


def test_numbers_keep_all_their_digits_and_lists_are_json() -> None:
    exact = finding(value=31.123456789012345, ratios=[3.0000000000000004, 3.1])
    (row,) = rows_of(csv_text([exact]))
    assert float(row["value"]) == exact.value
    assert float(row["fraction_of_limit"]) == exact.fraction_of_limit
    assert json.loads(row["ratios"]) == exact.ratios


@pytest.mark.parametrize("name", AWKWARD)
def test_any_name_comes_back(name: str) -> None:
    odd = finding(variant=name, engine={name: name})
    first, second = rows_of(csv_text([odd, finding()]))
    assert first["variant"] == name
    assert first["engine." + name.replace(".", "\\.")] == name
    assert second["variant"] == "static cache"


def test_no_two_columns_share_a_name() -> None:
    row = flat(finding(engine={"a.b": 1, "a": {"b": 2}, "a\\": {"b": 3}}))
    assert [row[f"engine.{name}"] for name in ("a\\.b", "a.b", "a\\\\.b")] == [1, 2, 3]


def test_no_findings_are_an_empty_table() -> None:
    assert rows_of(csv_text([])) == []


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path / "r", "finished", [])
    write_findings(tmp_path / "r", several())
    return tmp_path / "r"


def test_without_pandas_it_says_how_to_install_it(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)  # an import of it fails
    with pytest.raises(LabkitError, match=r"python -m pip install -e '.\[data\]'"):
        to_dataframe(run)


def test_a_dataframe_has_the_columns_of_the_csv(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pandas is no dependency: a stand-in shows what it is given."""
    pandas: Any = ModuleType("pandas")
    pandas.DataFrame = lambda rows, columns: (rows, columns)
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    rows, columns = to_dataframe(run)
    assert columns == list(rows_of((run / "findings.csv").read_text())[0])
    assert [row["variant"] for row in rows] == [one.variant for one in several()]
    assert rows[0]["ratios"] == [3.0, 3.2]


def test_the_csv_is_what_pandas_reads(run: Path) -> None:
    """With the real one, where it is installed."""
    pandas = pytest.importorskip("pandas")
    frame, read = to_dataframe(run), pandas.read_csv(run / "findings.csv")
    assert list(frame.columns) == list(read.columns)
    assert list(frame["value"]) == list(read["value"])
    assert list(read["quality.lossless"].dropna().astype(bool)) == [True, True, True]


def test_an_unknown_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", ModuleType("pandas"))
    with pytest.raises(LabkitError, match="no run named"):
        to_dataframe(tmp_path / "nothing")
