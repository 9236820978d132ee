"""Runs: what is made, what is kept, and what is shown."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from labkit.report.runs import run as run_module
from labkit.report.runs.run import run_reports
from tests.run_helpers import IDENTITY, findings, record, states, write


def test_a_run_leaves_everything_the_design_names(request_):
    assert run_reports(request_) == 0
    folder = request_.outputs / "r"
    for name in (
        "index.html", "run.json", "findings.json", "findings.csv", "environment.json",
        "reports/00_good.html",
        "notebooks/00_good.ipynb", "findings/00_good.json", "state/00_good.json",
    ):  # fmt: skip
        assert (folder / name).is_file(), name
    assert (request_.outputs / "index.html").is_file()
    assert record(request_)["status"] == "finished"
    assert [row["samples"] for row in findings(request_)] == [4]  # the profile's value
    assert not list(folder.rglob(".*.part.ipynb"))


def test_output_with_a_script_is_shown_not_run(request_):
    run_reports(request_)
    page = (request_.outputs / "r" / "reports" / "00_good.html").read_text()
    assert "<script>window" not in page
    assert "&lt;script&gt;window.hacked" in page


def test_nothing_changed_is_kept_and_force_runs_again(request_, capsys):
    run_reports(request_)
    executed = request_.outputs / "r" / "notebooks" / "00_good.ipynb"
    before = executed.stat().st_mtime_ns
    record = request_.outputs / "r" / "run.json"
    old = json.loads(record.read_text()) | {"started": "2001-01-01T00:00:00+00:00"}
    record.write_text(json.dumps(old))
    assert run_reports(request_) == 0
    assert executed.stat().st_mtime_ns == before
    assert json.loads(record.read_text())["started"] == old["started"]
    assert states(request_) == {"00_good": "kept"}
    assert "kept" in capsys.readouterr().out
    assert run_reports(replace(request_, force=True)) == 0
    assert executed.stat().st_mtime_ns > before
    assert json.loads(record.read_text())["started"] > old["started"]


@pytest.mark.parametrize("change", ["code", "parameters", "model"])
def test_what_a_result_depends_on_makes_it_run_again(request_, change, monkeypatch, tmp_path):
    run_reports(request_)
    executed = request_.outputs / "r" / "notebooks" / "00_good.ipynb"
    before = executed.stat().st_mtime_ns
    if change == "code":
        write(request_.notebooks, "00_good", "print('another')")
    elif change == "parameters":
        (tmp_path / "p.yaml").write_text("rounds: 6")
        request_ = replace(request_, params=tmp_path / "p.yaml")
    else:
        monkeypatch.setattr(run_module, "identify", lambda _: IDENTITY | {"weights": [["x", 3, 4]]})
    assert run_reports(request_) == 0
    assert executed.stat().st_mtime_ns > before


def test_more_than_the_limit_is_refused_and_fails_the_notebook(request_):
    write(request_.notebooks, "01_magic", fraction=1.2)
    assert run_reports(request_) == 1
    assert states(request_) == {"00_good": "ok", "01_magic": "failed"}
    assert "would reach 1.20 of its limit" in record(request_)["notebooks"][1]["error"]
    page = (request_.outputs / "r" / "index.html").read_text()
    assert "would reach 1.20 of its limit" in page
    assert [row["notebook"] for row in findings(request_)] == ["00_good"]


def test_only_adds_to_what_is_there(request_):
    write(request_.notebooks, "01_more")
    assert run_reports(replace(request_, only="00")) == 0
    assert states(request_) == {"00_good": "ok"}
    assert run_reports(replace(request_, only="01")) == 0
    assert states(request_) == {"00_good": "ok", "01_more": "ok"}
    assert len(findings(request_)) == 2


def test_the_time_left_says_which_notebooks_have_no_earlier_duration():
    left = run_module._left
    known = {"a": 100.0, "b": 20.0}
    assert left(["a", "b"], known) == "about 120 s left"
    assert left(["x", "y"], known) == "no earlier duration known"
    assert left(["a", "x"], known) == "about 100 s left without x (no earlier duration known)"
    assert "without v, w, x and others (no" in left(["a", "v", "w", "x", "y"], known)


def test_a_first_run_says_that_no_duration_is_known_and_a_second_tells_it(request_, capsys):
    run_reports(request_)
    assert "00_good: running, no earlier duration known ..." in capsys.readouterr().out
    run_reports(replace(request_, name="second"))
    assert "00_good: running, about " in capsys.readouterr().out
