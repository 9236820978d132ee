"""What a run tells of its making, and the one measurement of the machine that it keeps."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from labkit.report.check_example import faults
from labkit.report.finding import csv_text
from labkit.report.runs import run as run_module
from labkit.report.runs.run import run_reports
from labkit.report.told.finding import load_findings
from tests.run_helpers import IDENTITY, findings, record, states, write

pytestmark = pytest.mark.usefixtures("executing")


def made_from(monkeypatch, revision, changed):
    """Later commands find the tree at this revision, changed or not."""
    stamp = IDENTITY["environment"] | {"git_revision": revision, "git_changed": changed}
    monkeypatch.setattr(run_module, "identify", lambda _: IDENTITY | {"environment": stamp})


def about(request):
    return json.loads((request.outputs / "r" / "findings.json").read_text())["run"]


def test_a_run_says_what_it_was_made_from(request_):
    run_reports(request_)
    told = record(request_)
    made = {"profile": "full", "git_revision": "abc1234", "git_changed": False}
    assert {key: told[key] for key in made} == made
    assert {key: told["notebooks"][0][key] for key in made} == made
    assert told["machine"] == "a machine"
    assert about(request_) == {
        "name": "r", "model": "tiny", "dtype": "float32", "device": "cpu",
        "machine": "a machine", "profile": "full", "git_revision": "abc1234",
        "started": told["started"], "status": "finished", "clean": True,
    }  # fmt: skip
    page = (request_.outputs / "r" / "index.html").read_text()
    assert "profile full; revision abc1234, committed; " in page


def test_the_csv_holds_the_same_findings(request_):
    write(request_.notebooks, "01_more")
    run_reports(request_)
    folder = request_.outputs / "r"
    whole = load_findings(folder / "findings.json")
    assert [one.notebook for one in whole] == ["00_good", "01_more"]
    assert (folder / "findings.csv").read_text() == csv_text(whole)


def test_the_page_of_a_notebook_links_what_it_left(request_):
    run_reports(request_)
    page = (request_.outputs / "r" / "reports" / "00_good.html").read_text()
    assert 'href="../findings/00_good.json"' in page
    assert 'href="../notebooks/00_good.ipynb"' in page


def test_a_kept_notebook_says_which_revision_it_is_from(request_, monkeypatch):
    run_reports(request_)
    made_from(monkeypatch, "def5678", True)
    write(request_.notebooks, "01_more")
    run_reports(request_)
    told = {entry["name"]: entry for entry in record(request_)["notebooks"]}
    assert states(request_) == {"00_good": "kept", "01_more": "ok"}
    assert (told["00_good"]["git_revision"], told["01_more"]["git_revision"]) == (
        "abc1234", "def5678",
    )  # fmt: skip
    assert record(request_)["git_revision"] == "def5678"
    assert about(request_)["clean"] is False
    page = (request_.outputs / "r" / "index.html").read_text()
    assert "made with revision abc1234, committed" in page
    assert "revision def5678, with uncommitted changes" in page


@pytest.mark.parametrize(
    ("revision", "changed"), [("abc1234", True), (None, False), ("abc1234", None)]
)
def test_only_what_is_known_to_be_committed_is_clean(request_, monkeypatch, revision, changed):
    made_from(monkeypatch, revision, changed)
    run_reports(request_)
    assert about(request_)["clean"] is False
    assert faults(request_.outputs / "r") != []


def test_a_run_of_committed_notebooks_is_an_example(request_):
    write(request_.notebooks, "01_more")
    run_reports(request_)
    assert faults(request_.outputs / "r", ["00_good", "01_more"]) == []
    run_reports(request_)  # all are kept
    assert faults(request_.outputs / "r", ["00_good", "01_more"]) == []


def measured(request):
    return (request.outputs / "r" / "hardware" / "cpu.json").read_text()


@pytest.fixture
def two(request_, executing):
    """A run of two notebooks."""
    write(request_.notebooks, "01_more")
    run_reports(request_)
    return request_


def test_a_run_measures_the_machine_once_and_keeps_its_notebooks(two):
    before = measured(two)
    assert run_reports(two) == 0
    assert states(two) == {"00_good": "kept", "01_more": "kept"}
    assert run_reports(replace(two, only="00", force=True)) == 0
    assert states(two) == {"00_good": "ok", "01_more": "kept"}
    assert measured(two) == before


def test_all_by_force_measures_the_machine_anew(two):
    before = measured(two)
    assert run_reports(replace(two, force=True)) == 0
    assert measured(two) != before


@pytest.mark.parametrize("change", ["gone", "another"])
def test_a_continued_run_has_one_measurement_for_all(two, change):
    path = two.outputs / "r" / "hardware" / "cpu.json"
    if change == "gone":
        path.unlink()
    else:
        path.write_text("7")
    assert run_reports(two) == 0
    assert states(two) == {"00_good": "ok", "01_more": "ok"}
    assert run_reports(two) == 0
    assert states(two) == {"00_good": "kept", "01_more": "kept"}


def test_a_state_that_tells_no_measurement_is_not_kept(request_):
    run_reports(request_)
    path = request_.outputs / "r" / "state" / "00_good.json"
    path.write_text(json.dumps({"key": json.loads(path.read_text())["key"]}))
    run_reports(request_)
    assert states(request_) == {"00_good": "ok"}


@pytest.mark.parametrize("content", ["[]", "{", '{"schema": 2, "findings": [{}]}'])
def test_findings_that_cannot_be_read_are_made_again(request_, content):
    write(request_.notebooks, "01_more")
    run_reports(request_)
    (request_.outputs / "r" / "findings" / "00_good.json").write_text(content)
    assert run_reports(replace(request_, only="01")) == 0
    told = record(request_)["notebooks"][0]
    assert told["status"] == "failed"
    assert "00_good.json" in told["error"] or "a finding lacks" in told["error"]
    assert [row["notebook"] for row in findings(request_)] == ["01_more"]
    assert run_reports(request_) == 0
    assert states(request_) == {"00_good": "ok", "01_more": "kept"}


def test_a_notebook_that_saves_what_is_no_finding_has_failed(request_, executing):
    executing.content["00_good"] = "[]"
    assert run_reports(request_) == 1
    assert "has schema 1" in record(request_)["notebooks"][0]["error"]
