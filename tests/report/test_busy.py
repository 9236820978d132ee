"""What a run's first screens say of a machine that was busy; nothing of one that was not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from labkit.base.interference import Lost
from labkit.limits.hardware import Hardware
from labkit.report.pages.index import write_run_index
from labkit.report.told import busy, decoders
from labkit.timing.compare import Comparison
from labkit.timing.trace import Trace
from tests.browser_helpers import entry, finding, write_findings, write_run
from tests.report.test_decoders import NAME, slow_start
from tests.report.test_html import text_of


def lost(*shares: float | None) -> list[Lost]:
    return [Lost(1.0, 1, waited=share) for share in shares]


def comparison(*shares: float | None) -> Comparison:
    turns = {"plain": lost(*shares)}
    return Comparison("plain", {"plain": [Trace(0.0, (1.0, 2.0))] * len(shares)}, {}, lost=turns)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABKIT_RUN_DIR", str(tmp_path))
    write_run(tmp_path, "finished", [entry("02_quiet"), entry("03_busy")])
    write_findings(tmp_path, [finding()])
    return tmp_path


def page(run: Path) -> str:
    write_run_index(run)
    text = text_of((run / "index.html").read_text(encoding="utf-8"))
    return " ".join(text.replace("\u00a0", " ").split())


def test_a_run_says_which_notebooks_lost_how_much(run: Path) -> None:
    busy.keep("02_quiet", [comparison(0.0, 0.01)])
    busy.keep("03_busy", [comparison(0.0, 0.3), comparison(0.05, 0.01)])
    told = page(run)
    assert (
        "The machine was busy. Turns that lost more than 2 % of their core time to other work: "
        "2 of 4 in 03_busy (up to 30 %). " in told
    )
    own = busy.of_page(run, "03_busy").replace("\u00a0", " ")
    assert own == ("2 of 4 turns lost more than 2 % of their core time to other work (up to 30 %).")
    assert busy.of_page(run, "02_quiet") == ""


def test_a_quiet_run_says_nothing(run: Path) -> None:
    busy.keep("02_quiet", [comparison(0.0, 0.02)])
    busy.keep("03_busy", [comparison(None, None)])
    assert not (run / "traces" / "03_busy").exists()
    assert "machine was busy" not in page(run)


def test_a_run_says_that_its_machine_was_measured_beside_other_work(run: Path) -> None:
    (run / "hardware").mkdir()
    (run / "hardware" / "a.json").write_text(json.dumps({"lost": 0.01}))
    assert "machine was busy" not in page(run)
    (run / "hardware" / "b.json").write_text(json.dumps({"lost": 0.31}))
    assert (
        "The machine was busy. Other work had 31 % of the core time while the machine was measured"
        in page(run)
    )
    assert busy.of_page(run, "02_quiet").startswith("Other work had 31")


@pytest.mark.parametrize(
    "held",
    [
        "[]", "{", '{"turns": 4}', '{"turns": 4, "above": "2", "allowed": 0.02, "largest": 0.3}',
        '{"turns": true, "above": 1, "allowed": 0.02, "largest": 0.3}',
        '{"turns": 4, "above": 1, "allowed": 0.02, "largest": 7.0}',
    ],
)  # fmt: skip
def test_a_file_that_holds_something_else_is_passed_over(run: Path, held: str) -> None:
    (run / "traces" / "03_busy").mkdir(parents=True)
    (run / "traces" / "03_busy" / "lost.json").write_text(held)
    (run / "hardware").mkdir()
    (run / "hardware" / "a.json").write_text(held)
    assert "machine was busy" not in page(run)


def test_the_table_of_a_decoder_in_several_notebooks_tells_what_its_turns_lost(run: Path) -> None:
    for name, share, alone in (("02_quiet", 0.0, True), ("03_busy", 0.3, False)):
        one = slow_start(4)
        one.lost = {"it": lost(*[share] * 6)}
        decoders.keep(name, {NAME: "it"}, one, alone=alone)
    decoders.keep("04_old", {NAME: "it"}, slow_start(4))
    rows: list[dict[str, Any]] = decoders.rows(decoders.kept(run), {})
    told = [row["lost to other work"].replace("\u00a0", " ") for row in rows]
    assert told == ["0 %, waits not counted", "30 %", "not counted"]


def test_a_live_notebook_says_how_old_its_limits_are(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = Hardware("x", "cpu", 1, {}, {}, measured_at="2026-01-01T00:00:00+00:00", lost=0.0)
    busy.tell_machine(here)
    assert capsys.readouterr().out == ""  # a page is read much later
    monkeypatch.delenv("LABKIT_RUN_DIR")
    busy.tell_machine(here)
    told = capsys.readouterr().out
    assert "days ago; labkit limit --remeasure measures again" in told or "just now" in told


def test_a_notebook_of_a_run_says_that_the_machine_was_measured_beside_other_work(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    busy.tell_machine(Hardware("x", "cpu", 1, {}, {}, lost=0.31))
    assert "Other work had 31% of the core time" in (told := capsys.readouterr().out)
    assert "FORCE=1 for all notebooks measures again" in told
