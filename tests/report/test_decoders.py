"""The same decoder in several notebooks: kept by each, told together on the page of the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labkit.report.pages.index import write_run_index
from labkit.report.told import decoders
from labkit.report.told.decoders import groups, kept, rows, sentence, settling_sentence
from labkit.timing.compare import Bare, Comparison, again
from labkit.timing.trace import Trace
from tests.browser_helpers import HOSTILE, entry, finding, write_findings, write_run

NAME, READ = "plain decoder in float32", "bare read of 80 MB"
TITLES = {"01_short": "Short", "02_long": "Long", "03_other": "Other"}


def timed(gaps: list[float], read: float = 0.1) -> Comparison:
    """Six rounds of an answer with these seconds between its tokens; its bytes take `read`."""
    times = [1.0]
    for gap in gaps:
        times.append(times[-1] + gap)
    answer, bare = Trace(0.0, tuple(times), 20), Trace(0.0, (1.0, 1.0 + read))
    traces = {"it": [answer] * 6, again("it"): [answer] * 6, READ: [bare] * 6}
    return Comparison("it", traces, {}, {("it", "tpot"): Bare(READ, 1.0, 8e7)})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABKIT_RUN_DIR", str(tmp_path))
    return tmp_path


def slow_start(steps: int) -> Comparison:
    """The first two steps take twice as long as the others."""
    return timed([0.4, 0.4, *[0.2] * (steps - 2)])


def test_a_share_of_fewer_tokens_explains_what_whole_answers_do_not(run: Path) -> None:
    decoders.keep("01_short", {NAME: "it", "another": "gone"}, slow_start(4))
    decoders.keep("02_long", {NAME: "it"}, slow_start(22), alone=True)
    (of,) = groups(kept(run)).values()
    assert [one.notebook for one in of] == ["01_short", "02_long"]
    assert [one.new_tokens for one in of] == [5, 23]
    assert of[0].share[0] == pytest.approx(4 * 0.1 / 1.2)
    assert of[1].share[0] == pytest.approx(22 * 0.1 / 4.8)
    assert of[1].first(5)[0] == pytest.approx(of[0].share[0])
    told = sentence(of, TITLES)
    assert "from 33 % [33, 33] in “Short” to 46 % [46, 46] in “Long”, and not all" in told
    assert "Over the first 5 tokens of each answer it goes from 33 % [33, 33] to 33 %" in told
    assert "no difference is shown" in told


def test_what_the_number_of_tokens_does_not_explain_is_said(run: Path) -> None:
    decoders.keep("01_short", {NAME: "it"}, slow_start(4))
    decoders.keep("03_other", {NAME: "it"}, timed([0.2] * 4))
    (of,) = groups(kept(run)).values()
    assert "does not explain the difference" in sentence(of, TITLES)
    decoders.keep("03_other", {NAME: "it"}, slow_start(4))
    (of,) = groups(kept(run)).values()
    assert "All intervals overlap" in sentence(of, TITLES)


def test_a_row_says_how_the_turns_were(run: Path) -> None:
    decoders.keep("01_short", {NAME: "it"}, slow_start(4), slow_start(4))
    (one,) = kept(run)
    (row,) = rows([one], {"01_short": "Short"})
    assert row == {
        "notebook": "Short",
        "there called": "it",
        "runs in": "one process with all variants",
        "other turns in a round": "2",
        "lost to other work": "not counted",
        "prompt + new tokens": "20 + 5",
        "bytes a token": "80 MB",
        "time a token": "300 ms",
        "first step over the last third": "2.00x [2.00, 2.00]",
        "of the bare read": "33 % [33, 33]",
        "over the first 5 tokens": "33 % [33, 33]",
        "prompt, of the bare products": "–",
    }


def test_the_share_of_the_prompt_stands_beside_it(run: Path) -> None:
    found = slow_start(4)
    found.bare["it", "ttft"] = Bare(READ, 5.0)
    decoders.keep("01_short", {NAME: "it"}, found)
    (row,) = rows(kept(run), {})
    assert row["prompt, of the bare products"] == "50 % [50, 50]"  # 0.5 s of the first second


def test_one_notebook_alone_makes_no_group(run: Path) -> None:
    decoders.keep("01_short", {NAME: "it"}, slow_start(4))
    decoders.keep("02_long", {"another": "it"}, slow_start(4))
    assert groups(kept(run)) == {}


def test_only_a_first_step_that_is_surely_slower_is_told() -> None:
    told = settling_sentence(slow_start(4), "it")
    assert "The 4 timed steps" in told
    assert "2.00x [2.00, 2.00] as long" in told
    assert settling_sentence(timed([0.2] * 4), "it") == ""


def test_files_that_hold_something_else_are_left_out(run: Path) -> None:
    decoders.keep("01_short", {NAME: "it"}, slow_start(4))
    path = run / "traces/01_short/decoders.json"
    (good,) = json.loads(path.read_text())["decoders"]
    wrong = [
        good | {"shares": {}}, good | {"shares": {"x": [1, 1, 1]}}, good | {"settling": [1, 1]},
        good | {"seconds": "1"}, good | {"nbytes": float("nan")}, good | {"decoder": 3}, {}, 4,
    ]  # fmt: skip
    path.write_text(json.dumps({"decoders": [*wrong, good]}))
    assert len(kept(run)) == 1
    path.write_text("[")
    assert kept(run) == []


def test_the_page_of_a_run_holds_the_table_and_escapes_it(run: Path) -> None:
    for notebook in ("01_short", "02_long"):
        decoders.keep(notebook, {HOSTILE: "it"}, slow_start(4))
    write_run(run, "finished", [entry("01_short")])
    write_findings(run, [finding(notebook="01_short")])
    write_run_index(run)
    page = (run / "index.html").read_text(encoding="utf-8")
    assert "The same decoder in several notebooks" in page
    assert "first step over the last third" in page
    assert HOSTILE not in page
