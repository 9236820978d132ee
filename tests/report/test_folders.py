"""Run folders: which there are, and findings that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.errors import FindingsError, ParameterError
from labkit.report import folders
from tests.browser_helpers import finding, write_findings, write_run


def made(folder: Path) -> Path:
    write_run(folder, "finished", [])
    write_findings(folder, [finding()])
    return folder


def test_a_run_is_found_by_its_name_and_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = made(tmp_path / "outputs" / "there")
    monkeypatch.setattr(folders, "project_root", lambda: tmp_path)
    assert folders.find_run("there") == folders.find_run(there) == there
    for name in ("elsewhere", "", "..", tmp_path):
        with pytest.raises(ParameterError, match="no run named .*; known are: there"):
            folders.find_run(name)


def test_without_any_run_there_is_none_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "project_root", lambda: tmp_path)
    with pytest.raises(ParameterError, match="known are: none yet"):
        folders.find_run("x")


def test_what_is_no_run_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "interactive" / "findings").mkdir(parents=True)  # what a live session leaves
    (tmp_path / ".hidden" / "notebooks").mkdir(parents=True)
    (tmp_path / "a file").touch()
    (tmp_path / "begun" / "notebooks").mkdir(parents=True)
    assert [path.name for path in folders.runs_in(tmp_path)] == ["begun"]


def test_findings_of_a_run_that_has_none_yet_are_none(tmp_path: Path) -> None:
    assert folders.findings_of(tmp_path) == []
    assert folders.findings_of(made(tmp_path / "r")) == [finding()]


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "[",
        '"x"',
        '{"schema": 2, "findings": [{}]}',
        '{"schema": 2, "findings": ' + "[" * 100_000 + "}",
    ],
)
def test_what_cannot_be_read_is_one_line_that_says_what_to_do(tmp_path: Path, content: str) -> None:
    (tmp_path / "findings.json").write_text(content)
    with pytest.raises(FindingsError) as caught:
        folders.findings_of(tmp_path)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path.name}: ")
    assert said.endswith(f"`make reports RUN={tmp_path.name} FORCE=1` makes the run anew.")
    assert "\n" not in said


def test_a_number_that_no_float_holds_is_no_traceback(tmp_path: Path) -> None:
    text = (made(tmp_path / "r") / "findings.json").read_text()
    changed = text.replace('"value": 31.0', f'"value": 1{"0" * 400}')
    assert changed != text
    (tmp_path / "r" / "findings.json").write_text(changed)
    with pytest.raises(FindingsError, match="r: "):
        folders.findings_of(tmp_path / "r")


def test_a_folder_in_place_of_the_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "findings.json").mkdir()
    with pytest.raises(FindingsError, match="findings.json cannot be read"):
        folders.findings_of(tmp_path)


def test_of_many_runs_the_nearest_and_the_newest_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        made(tmp_path / "outputs" / f"2026-11-24-a-model-with-a-long-name-cpu-quick-{number}")
    made(tmp_path / "outputs" / "example")
    monkeypatch.setattr(folders, "project_root", lambda: tmp_path)
    with pytest.raises(ParameterError, match="known are: example, 2026.* and 38 others") as told:
        folders.find_run("exmaple")
    assert len(str(told.value)) < 300
