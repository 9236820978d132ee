"""The files of an example: one that is missing, empty, broken or of another run is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.report.check_example import faults
from labkit.report.finding import csv_text
from tests.browser_helpers import consistent
from tests.report.example_run import NAMES, changed, good, tell_of_the_run, with_row


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return good(tmp_path / "example")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "findings.json has schema 1; this version reads 2."),
        ("{", "findings.json is no JSON"),
        ('{"schema": 2, "findings": []}', "findings.json holds no findings"),
    ],
)
def test_findings_of_another_schema_or_none(run: Path, content: str, said: str) -> None:
    (run / "findings.json").write_text(content)
    assert faults(run, NAMES)[0].startswith(said)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("findings.json", "findings.json"),
        ("findings.csv", "findings.csv is missing, or tells something else than findings.json"),
        ("findings/01_more.json", "findings/: "),
        ("reports/00_good.html", "reports/00_good.html is missing or empty"),
        ("notebooks/01_more.ipynb", "notebooks/01_more.ipynb is missing or empty"),
        ("hardware/0123.json", "hardware/ is missing or empty"),
        ("run.json", "run.json is missing or broken"),
    ],
)
@pytest.mark.parametrize("empty", [False, True])
def test_a_file_that_is_missing_or_empty(run: Path, file: str, said: str, empty: bool) -> None:
    (run / file).write_text("\n") if empty else (run / file).unlink()
    (found,) = faults(run, NAMES)
    assert said in found


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "run.json is missing or broken"),
        ("[" * 100_000, "run.json is missing or broken"),
        ('{"status": 1e400}', "run.json is missing or broken"),
        ('{"name": "r"}', "run.json has no list of notebooks"),
        ('{"notebooks": {"00_good": {}}}', "run.json has no list of notebooks"),
        ('{"notebooks": ["00_good"]}', "run.json has no list of notebooks"),
        ('{"notebooks": [{"status": "ok"}]}', "run.json has no list of notebooks"),
        ('{"notebooks": [{"name": 3}]}', "run.json has no list of notebooks"),
    ],
)
def test_a_run_file_that_is_malformed_is_one_line(run: Path, content: str, said: str) -> None:
    (run / "run.json").write_text(content)
    (found,) = faults(run, NAMES)
    assert said in found


def test_a_name_that_no_file_can_have_is_no_traceback_and_no_second_line(run: Path) -> None:
    for name in ("a" * 5000, "a\0b", "a\nb"):
        changed(run / "run.json", lambda held, n=name: held["notebooks"][0].update(name=n))
        found = faults(run)
        assert found
        assert not any("\n" in fault for fault in found)


def test_findings_that_tell_of_another_run(run: Path) -> None:
    said = ["findings.json tells something else of its run than run.json"]
    for changes in ({"status": "unfinished"}, {"git_revision": "0ld"}, {"clean": False}):
        tell_of_the_run(run)
        changed(run / "findings.json", lambda held, c=changes: held["run"].update(c))
        assert faults(run, NAMES) == said
    changed(run / "findings.json", lambda held: held.pop("run"))
    assert faults(run, NAMES) == said


def test_a_table_of_another_encoding(run: Path) -> None:
    (run / "findings.csv").write_bytes(b"\xff\xfe" + "é".encode("latin-1"))
    assert faults(run, NAMES) == [
        "findings.csv is missing, or tells something else than findings.json"
    ]


def test_half_a_character_is_no_traceback(run: Path) -> None:
    with_row(run, weights="\ud800")
    assert faults(run, NAMES) == [
        "findings.csv is missing, or tells something else than findings.json"
    ]


def test_copies_that_tell_something_else(run: Path) -> None:
    changed(run / "findings" / "01_more.json", lambda held: held["findings"].pop())
    assert faults(run, NAMES) == ["findings.json is not what the files in findings/ hold together"]
    good(run)
    (run / "findings.csv").write_text(csv_text([consistent()]))
    assert faults(run, NAMES) == [
        "findings.csv is missing, or tells something else than findings.json"
    ]
