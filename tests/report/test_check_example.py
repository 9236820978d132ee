"""What an example has to be: a good run passes, and each kind of fault is one line."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from labkit.report import check_example
from labkit.report.check_example import faults, main
from labkit.report.finding import csv_text
from labkit.report.told.finding import from_row, to_json
from tests.browser_helpers import consistent, entry, write_findings, write_run

MADE = {"profile": "full", "git_revision": "abc1234", "git_changed": False}
NAMES = ("00_good", "01_more")


def good(folder: Path) -> Path:
    """A run of two notebooks that has every file of an example."""
    more = {"notebook": "01_more", "variant": "paged cache"}
    ttft = {"phase": "prefill", "metric": "ttft", "unit": "s", "value": 0.4, "limit": 0.1}
    skipped = {"limit": None, "limit_low": None, "limit_note": "it was faster", "bytes_read": 9.0}
    found = {
        "00_good": [consistent(), consistent(variant="same bytes", value=40.0), consistent(**ttft)],
        "01_more": [consistent(**more), consistent(**more | skipped)],
    }
    write_run(folder, "finished", [entry(name) | MADE for name in NAMES], **MADE)
    for name, findings in found.items():
        for path in (f"findings/{name}.json", f"reports/{name}.html", f"notebooks/{name}.ipynb"):
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(to_json(findings))
    write_findings(folder, [one for findings in found.values() for one in findings])
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return good(tmp_path / "example")


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """A JSON file with something in it changed."""
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))


def with_row(run: Path, **changes: Any) -> None:
    """The second finding changed, alike in every place that holds it."""
    for name in ("findings.json", "findings/00_good.json"):
        changed(run / name, lambda held: held["findings"][1].update(changes))
    rows = json.loads((run / "findings.json").read_text())["findings"]
    with contextlib.suppress(ValueError):  # a finding that cannot be has no row there
        (run / "findings.csv").write_text(csv_text([from_row(row) for row in rows]))


def test_a_good_run_has_no_fault(run: Path) -> None:
    assert faults(run, NAMES) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": "unfinished"}, ["the run is unfinished, not finished"]),
        ({"status": "failed"}, ["the run is failed, not finished"]),
        ({"profile": "quick"}, ["the run: made with profile quick, not full"]),
        ({"git_changed": True}, ["the run: made from a tree with uncommitted changes"]),
        ({"git_changed": None}, ["the run: it is not known which revision it was made from"]),
    ],
)
def test_a_run_that_is_no_example(run: Path, changes: dict[str, Any], said: list[str]) -> None:
    changed(run / "run.json", lambda held: held.update(changes))
    assert faults(run, NAMES) == said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"profile": "quick"}, "01_more: made with profile quick, not full"),
        ({"git_changed": True}, "01_more: made from a tree with uncommitted changes"),
        ({"git_revision": "0ld"}, "01_more: made from revision 0ld, the run from abc1234"),
        ({"git_revision": ""}, "01_more: it is not known which revision it was made from"),
    ],
)
def test_a_notebook_that_was_kept_from_before(
    run: Path, changes: dict[str, Any], said: str
) -> None:
    changed(run / "run.json", lambda held: held["notebooks"][1].update(changes))
    assert faults(run, NAMES) == [said]


def test_a_run_without_a_revision(run: Path) -> None:
    changed(run / "run.json", lambda held: held.pop("git_revision"))
    assert "the run: it is not known which revision it was made from" in faults(run, NAMES)


def test_a_notebook_that_was_not_run(run: Path) -> None:
    assert faults(run, [*NAMES, "02_later"]) == ["02_later: the run does not hold it"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"fraction_of_limit": 1.2, "limit": 40.0 / 1.2},
            "00_good, same bytes, decode: same bytes (decode) would reach 1.20 of its limit. "
            "Above 1, the limit or the measurement is wrong.",
        ),
        (
            {"limit": 60.0},
            "00_good, same bytes, decode: limit 60 and fraction 0.8 give 48, not the value 40.",
        ),
        (
            {"limit": 60.0, "fraction_of_limit": 40.0 / 60.0},
            "00_good, same bytes, decode: its limit is 60.0 (slowest: 38.2), but that of 00_good, "
            "static cache, decode, with the same bytes, is 50.0 (slowest: 38.2)",
        ),
        (
            {"limit_low": 38.20000000000001},
            "00_good, same bytes, decode: its limit is 50.0 (slowest: 38.20000000000001), but that "
            "of 00_good, static cache, decode, with the same bytes, is 50.0 (slowest: 38.2)",
        ),
        (
            {"baseline_value": 12.0},
            "00_good, same bytes, decode: value 40 and baseline 12 give a speedup of 3.33333, "
            "not 3.1",
        ),
        (
            {"baseline_value": 0.0},
            "00_good, same bytes, decode: value 40 and baseline 0 give no speedup",
        ),
        (
            {"verdict": "perhaps"},
            "00_good, same bytes, decode: verdict 'perhaps' is unknown; allowed: faster, slower, "
            "inconclusive.",
        ),
        (
            {"ratios": [3.0, 3.2]},
            "00_good, same bytes, decode: 12 rounds, but 2 ratios",
        ),
        (
            {"speedup_high": 3.5},
            "00_good, same bytes, decode: speedup_high 3.5, but the ratios give 3.20202",
        ),
        (
            {"verdict": "slower"},
            "00_good, same bytes, decode: slower at a speedup of 3.1",
        ),
    ],
)
def test_numbers_that_do_not_fit_each_other(run: Path, changes: dict[str, Any], said: str) -> None:
    with_row(run, **changes)
    assert faults(run, NAMES) == [said]


@pytest.mark.parametrize(
    "changes",
    [
        {"bytes_read": 5.39e8, "limit": 60.0, "fraction_of_limit": 40.0 / 60.0},
        {"hardware": {"name": "GPU"}, "limit": 60.0, "fraction_of_limit": 40.0 / 60.0},
        {"bytes_read": None, "limit": 60.0, "fraction_of_limit": 40.0 / 60.0},
        {"metric": "goodput", "baseline_value": 12.0},  # its speedup is not a ratio of values
    ],
)
def test_numbers_that_may_differ(run: Path, changes: dict[str, Any]) -> None:
    with_row(run, **changes)
    assert faults(run, NAMES) == []


def test_a_time_has_the_baseline_above_the_fraction_line(run: Path) -> None:
    """The finding in seconds: its baseline takes longer."""
    for name in ("findings.json", "findings/00_good.json"):
        changed(run / name, lambda held: held["findings"][2].update(baseline_value=0.4 / 3.2))
    found = faults(run, NAMES)
    assert found[0].startswith("00_good, static cache, prefill: value 0.4 and baseline 0.125")
    assert len(found) == 1


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
        ("reports/00_good.html", "reports/00_good.html is missing"),
        ("notebooks/01_more.ipynb", "notebooks/01_more.ipynb is missing"),
        ("run.json", "run.json is missing or broken"),
    ],
)
def test_a_file_that_is_missing(run: Path, file: str, said: str) -> None:
    (run / file).unlink()
    (found,) = faults(run, NAMES)
    assert said in found


def test_copies_that_tell_something_else(run: Path) -> None:
    changed(run / "findings" / "01_more.json", lambda held: held["findings"].pop())
    assert faults(run, NAMES) == ["findings.json is not what the files in findings/ hold together"]
    good(run)
    (run / "findings.csv").write_text(csv_text([consistent()]))
    assert faults(run, NAMES) == [
        "findings.csv is missing, or tells something else than findings.json"
    ]


def test_the_command_prints_one_line_a_fault(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.parent / "notebooks").mkdir()
    for name in NAMES:
        (run.parent / "notebooks" / f"{name}.ipynb").touch()
    monkeypatch.setattr(check_example, "project_root", lambda: run.parent)
    assert CliRunner().invoke(main, [str(run)]).exit_code == 0
    done = CliRunner().invoke(main, [str(run), "--profile", "quick"])
    assert done.exit_code == 1
    assert done.stderr.splitlines() == [
        f"{what}: made with profile full, not quick" for what in ("the run", *NAMES)
    ]
    (run.parent / "notebooks" / "02_new.ipynb").touch()
    done = CliRunner().invoke(main, [str(run)])
    assert (done.exit_code, done.stderr) == (1, "02_new: the run does not hold it\n")
