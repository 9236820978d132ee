"""The pages around the notebooks: a run's answer, the list of runs, and two runs compared."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from labkit.errors import ParameterError
from labkit.report.pages import index
from tests.browser_helpers import HOSTILE, entry, finding, several, write_findings, write_run
from tests.report.test_html import Tags, harmless, text_of


def run_page(folder: Path) -> str:
    index.write_run_index(folder)
    return (folder / "index.html").read_text(encoding="utf-8")


def runs_page(outputs: Path) -> str:
    index.write_runs_index(outputs)
    return (outputs / "index.html").read_text(encoding="utf-8")


def embedded(page: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="runs">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return list(json.loads(found[1]))


def finished(folder: Path, *findings: Any, **more: Any) -> Path:
    write_run(folder, "finished", [entry("00_good")], **more)
    write_findings(folder, list(findings))
    return folder


def test_a_run_says_what_was_asked_and_what_was_found(tmp_path: Path) -> None:
    page = run_page(finished(tmp_path / "a run", *several()))
    text = " ".join(text_of(page).replace("\u00a0", " ").split())
    harmless(page)
    assert len(Tags(page).named("h1")) == 1
    assert "4 findings from 1 notebook. The largest sure gain: static cache is 3.10x" in text
    assert "model smollm2-135m-instruct in float32 on Some CPU @ 2.0 GHz, 8 GB of memory" in text
    assert "profile quick; 24 November 2026, 11:08 UTC" in text
    assert "3.10x ▲ faster95 %: 2.90x to 3.30x, 12 rounds" in text
    assert "31.4 tok/sdecode rate, baseline 10.1 tok/s" in text
    assert "61 % of its limit, 51.5 tok/s" in text
    assert "same answer (64 tokens)" in text
    assert "≈ inconclusive" in text
    assert "no limit is defined for it" in text
    assert 'style="width:61.0%"' in page
    assert "banner" not in page.split("</style>")[1]


def test_a_finding_above_its_limit_is_a_red_banner(tmp_path: Path) -> None:
    page = run_page(finished(tmp_path / "r", finding(fraction_of_limit=1.25)))
    banner = re.search(r'<p class="banner bad" role="alert">.*?</p>', page, re.DOTALL)
    assert banner is not None
    assert "reaches 1.25 of its limit" in text_of(banner[0])
    assert 'class="defect" style="width:100.0%"' in page


def test_a_failed_notebook_is_red_with_its_error_and_its_page(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    entries = [entry("00_good"), entry("01_bad", "failed", HOSTILE), entry("02_lost", "failed")]
    write_run(folder, "failed", entries)
    (folder / "reports").mkdir()
    (folder / "reports" / "01_bad.html").touch()
    page = run_page(folder)
    harmless(page)
    assert "2 of 3 notebooks failed." in text_of(page)
    assert f"failed{HOSTILE}" in text_of(page)
    links = [link["href"] for link in Tags(page).named("a")]
    assert "reports/01_bad.html" in links
    assert "reports/02_lost.html" not in links  # it left no page


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    write_run(tmp_path / "r", "unfinished", [entry("00_good", "kept"), entry("01_bad", "running")])
    text = text_of(run_page(tmp_path / "r"))
    assert "This run is not finished: 1 of 2 notebooks are done." in text
    assert "No findings yet." in text


def test_a_run_folder_with_nothing_in_it_still_gets_a_page(tmp_path: Path) -> None:
    page = run_page(tmp_path)
    assert "This run is not finished" in text_of(page)
    assert "unknown machine" in page


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"name": 3}', '{"notebooks": {}}'])
def test_a_broken_run_is_listed_and_never_stops_the_list(tmp_path: Path, content: str) -> None:
    finished(tmp_path / "good", finding())
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text(content)
    runs = {run["folder"]: run for run in embedded(runs_page(tmp_path))}
    assert runs["broken"]["status"] == "broken"
    assert runs["good"]["status"] == "finished"


@pytest.mark.parametrize("name", ["run.json", "environment.json", "findings.json"])
@pytest.mark.parametrize(
    "content", ["{", "7", '{"versions": 5}', '{"memory_bytes": "many"}', "[{}]"]
)
def test_a_half_written_file_never_stops_the_list(tmp_path: Path, name: str, content: str) -> None:
    (finished(tmp_path / "half", finding()) / name).write_text(content)
    assert "half" in runs_page(tmp_path)


def test_what_is_no_run_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "interactive" / "findings").mkdir(parents=True)  # what a live session leaves
    (tmp_path / ".hidden" / "notebooks").mkdir(parents=True)
    (tmp_path / "a file").touch()
    (tmp_path / "begun" / "notebooks").mkdir(parents=True)
    assert [path.name for path in index.runs_in(tmp_path)] == ["begun"]


def test_runs_are_listed_newest_first_with_their_best(tmp_path: Path) -> None:
    unsure = finding(speedup=9.0, speedup_high=20.0, verdict="inconclusive")
    finished(tmp_path / "old", finding(), unsure, started="2026-11-23T10:00:00+00:00")
    finished(tmp_path / "new", started="2026-11-24T10:00:00+00:00")
    runs = embedded(runs_page(tmp_path))
    assert [(run["name"], run["best"]) for run in runs] == [("new", "–"), ("old", "3.10x")]


def test_an_empty_folder_says_how_to_make_a_run(tmp_path: Path) -> None:
    assert "make reports" in text_of(runs_page(tmp_path))


def test_the_only_script_is_the_one_whose_hash_the_policy_names(tmp_path: Path) -> None:
    finished(tmp_path / "a", *several())
    finished(tmp_path / "b", finding(variant="</script><script>window.hacked=1</script>"))
    page = runs_page(tmp_path)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert len(Tags(page).named("script")) == 2  # the data and the code
    assert "unsafe-inline'; script" not in page


def test_the_list_opens_on_two_runs_that_have_findings(tmp_path: Path) -> None:
    finished(tmp_path / "a", finding(), started="2026-11-21T10:00:00+00:00")
    finished(tmp_path / "b", finding(), started="2026-11-22T10:00:00+00:00")
    write_run(tmp_path / "c", "unfinished", [], started="2026-11-23T10:00:00+00:00")
    chosen = re.findall(r"<option[^>]* selected>(\w)</option>", runs_page(tmp_path))
    assert chosen == ["a", "b"]


def test_two_runs_side_by_side(tmp_path: Path) -> None:
    latency = {"variant": "window", "metric": "ttft", "unit": "s"}
    first = finished(tmp_path / "1", finding(), finding(**latency, value=0.2), finding(variant="x"))
    second = finished(tmp_path / "2", finding(value=62.8), finding(**latency, value=0.1))
    rows = index.compare_runs(first, second)
    assert [row["second to first"] for row in rows] == ["2.00x", "2.00x", "–"]
    assert rows[0]["first"] == "31.4\u00a0tok/s"
    assert rows[2]["second"] == "–"
    assert rows[1]["finding"] == "00_good: window / no cache, decode, TTFT"


def test_a_rate_of_nothing_divides_nothing(tmp_path: Path) -> None:
    none = finished(tmp_path / "1", finding(metric="goodput", unit="req/s", value=0.0))
    some = finished(tmp_path / "2", finding(metric="goodput", unit="req/s", value=2.0))
    assert [row["second to first"] for row in index.compare_runs(none, some)] == ["–"]


def test_what_differs_between_two_runs_is_told(tmp_path: Path) -> None:
    first = finished(tmp_path / "1", finding())
    second = finished(tmp_path / "2", finding(), model="another")
    assert index.differences(first, second) == ["model: smollm2-135m-instruct | another"]
    assert index.differences(first, first) == []


def test_a_run_that_is_not_there_is_named_with_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(tmp_path / "outputs" / "there", finding())
    monkeypatch.setattr(index, "project_root", lambda: tmp_path)
    assert index.find_run("there") == tmp_path / "outputs" / "there"
    with pytest.raises(ParameterError, match="no run named 'elsewhere'; known are: there"):
        index.find_run("elsewhere")


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
    assert index.when(stamp) == said
