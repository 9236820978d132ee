"""What an example has to be: a good run passes, and each kind of fault is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from labkit.base.paths import project_root
from labkit.report import check_example
from labkit.report.check_example import faults, main
from tests.report.example_run import NAMES, changed, good, tell_of_the_run, with_row


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return good(tmp_path / "example")


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
    tell_of_the_run(run)
    assert faults(run, NAMES) == said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"profile": "quick"}, "01_more: made with profile quick, not full"),
        ({"git_changed": True}, "01_more: made from a tree with uncommitted changes"),
        ({"git_revision": "0ld"}, "01_more: made from revision 0ld, the run from abc1234"),
        ({"git_revision": ""}, "01_more: it is not known which revision it was made from"),
        ({"status": "failed"}, "01_more: it is failed; allowed: ok, kept"),
        ({"status": "pending"}, "01_more: it is pending; allowed: ok, kept"),
        ({"status": None}, "01_more: it is None; allowed: ok, kept"),
    ],
)
def test_a_notebook_that_was_kept_from_before(
    run: Path, changes: dict[str, Any], said: str
) -> None:
    changed(run / "run.json", lambda held: held["notebooks"][1].update(changes))
    tell_of_the_run(run)
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
        {
            "metric": "goodput",
            "unit": "req/s",
            "baseline_value": 12.0,
        },  # its speedup is not a ratio of values
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


def test_the_example_that_is_kept_is_one() -> None:
    root = project_root()
    names = {path.stem for path in (root / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    example = root / "outputs" / "example"
    assert faults(example, sorted(names)) == []
