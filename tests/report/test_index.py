"""The pages around the notebooks: a run's answer, and the list of runs that compares them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

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
    assert "4 findings from 1 notebook. Closest to its bare work in decode: static cache" in text
    assert "The largest sure gain: static cache is 3.10x" in text
    assert "model smollm2-135m-instruct in float32 on Some CPU @ 2.0 GHz, 8 GB of memory" in text
    assert "profile quick; revision abc1234, committed; 24 November 2026, 11:08 UTC" in text
    assert "86 % [82, 90] of the bare read of 538 MB" in text
    assert "62 %of its limit, 50 tok/s; 38.2 tok/s by the slowest rate" in text
    assert "3.10x ▲ faster95 %: 2.90x to 3.30x, 12 rounds; could have seen 4 %" in text
    assert "31 tok/sdecode rate, baseline 10 tok/s" in text
    assert "40 % [35, 45] of the int8 products alone (avx512vnni)" in text
    assert "same answer (64 tokens)" in text
    assert "≈ inconclusive" in text
    assert "–no limit: none is defined for it" in text
    assert "–no bare read beside it" in text
    assert 'style="width:86.0%"' in page
    assert "banner" not in page.split("</style>")[1]


def test_columns_say_the_share_of_the_bare_read_before_the_fraction_of_the_limit(
    tmp_path: Path,
) -> None:
    page = run_page(finished(tmp_path / "r", finding()))
    table = page[page.index('<table class="findings') :]
    heads = re.findall(r'<th scope="col">([^<]*)</th>', table)
    assert heads[:3] == ["variant", "of the bare read", "of its limit"]
    assert "how to read this table" in page
    assert "<em>Of the bare read</em>" in page


def test_the_answer_leads_the_rows(tmp_path: Path) -> None:
    """The notebook that came closest, its decode steps from the closest on; then the others."""
    near = {"notebook": "15_limit", "of_bare_read_high": 0.99}
    found = [
        finding(variant="first of 00"),
        finding(variant="second of 00"),
        finding(variant="far", **near | {"of_bare_read": 0.3, "of_bare_read_low": 0.2}),
        finding(variant="in prefill", phase="prefill", **near | {"of_bare_read_low": 0.85}),
        finding(variant="near", **near | {"of_bare_read": 0.95, "of_bare_read_low": 0.9}),
    ]
    page = run_page(finished(tmp_path / "r", *found))
    body = page[page.index('<table class="findings') :]
    order = ["near", "far", "in prefill", "first of 00", "second of 00"]
    places = [body.index(f"<strong>{name}</strong>") for name in order]
    assert places == sorted(places)


def test_more_than_the_bare_read_stays_within_the_bar(tmp_path: Path) -> None:
    more = finding(of_bare_read=1.02, of_bare_read_high=1.1)
    page = run_page(finished(tmp_path / "r", more))
    assert 'style="width:100.0%"' in page
    assert "102" in text_of(page)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"git_changed": True}, "revision abc1234, with uncommitted changes"),
        ({"git_changed": None}, "revision abc1234, with uncommitted changes"),
        ({"git_revision": None}, "profile quick; 24 November"),
    ],
)
def test_a_run_says_what_it_was_made_from(tmp_path: Path, made: dict[str, Any], said: str) -> None:
    assert said in text_of(run_page(finished(tmp_path / "r", finding(), **made)))


def test_a_notebook_of_another_revision_or_profile_says_so(tmp_path: Path) -> None:
    same = {"profile": "quick", "git_revision": "abc1234", "git_changed": False}
    other = {"profile": "full", "git_revision": "0ld", "git_changed": False}
    entries = [entry("00_good") | same, entry("01_kept", "kept") | other, entry("02_older", "kept")]
    write_run(tmp_path / "r", "finished", entries)
    text = text_of(run_page(tmp_path / "r"))
    assert text.count("made with") == 1
    assert "made with profile full; revision 0ld, committed" in text


def test_a_run_links_its_data(tmp_path: Path) -> None:
    folder = finished(tmp_path / "r", finding())
    hrefs = [link["href"] for link in Tags(run_page(folder)).named("a")]
    assert hrefs[-3:] == ["findings.json", "findings.csv", "environment.json"]
    (folder / "findings.csv").unlink()
    assert "findings.csv" not in run_page(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "findings.json has schema 1; this version reads 2."),
        ('"text"', "findings.json holds no findings."),
        ("{", "findings.json is no JSON"),
        ('{"schema": 2, "findings": [{"value": 1}]}', "a finding lacks notebook."),
    ],
)
def test_findings_that_cannot_be_read_are_told_on_both_pages(
    tmp_path: Path, content: str, said: str
) -> None:
    folder = finished(tmp_path / "older", finding())
    (folder / "findings.json").write_text(content)
    page = run_page(folder)
    harmless(page)
    banner = re.search(r'<p class="banner bad" role="alert">.*?</p>', page, re.DOTALL)
    assert banner is not None
    assert "The findings of this run cannot be read." in text_of(banner[0])
    assert said in text_of(banner[0])
    assert "make reports RUN=older FORCE=1" in text_of(banner[0])
    assert "No findings yet" not in page
    write_run(tmp_path / "begun", "unfinished", [])
    run = next(run for run in embedded(runs_page(tmp_path)) if run["name"] == "older")
    assert (run["status"], run["findings"]) == ("finished", [])
    assert said in run["unread"]
    assert said in text_of(runs_page(tmp_path))


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


def test_runs_are_listed_newest_first_with_their_best(tmp_path: Path) -> None:
    unsure = finding(speedup=9.0, speedup_high=20.0, verdict="inconclusive")
    finished(tmp_path / "old", finding(), unsure, started="2026-11-23T10:00:00+00:00")
    finished(tmp_path / "new", started="2026-11-24T10:00:00+00:00")
    runs = embedded(runs_page(tmp_path))
    told = [(run["name"], run["best"], run["closest"].replace("\u00a0", " ")) for run in runs]
    assert told == [("new", "–", "–"), ("old", "3.10x", "86 % [82, 90]")]


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
    page = runs_page(tmp_path)
    assert re.findall(r"<option[^>]* selected>(\w)</option>", page) == ["a"]
    assert re.findall(r"<input[^>]* checked> (\w)</label>", page) == ["b"]
    assert len(re.findall('<input type="checkbox"', page)) == 3
