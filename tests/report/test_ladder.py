"""The ladder as a picture: a log axis with sane labels, and marks where the numbers say."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labkit.report.pages import index
from labkit.report.pages.ladder import SIZES, axis_of, chosen, picture
from labkit.report.told.answer import Rung
from tests.browser_helpers import HOSTILE, entry, finding, several, write_findings, write_run
from tests.report.test_answer import THEIRS, draft, rung
from tests.report.test_html import Tags, harmless

RATES = st.floats(1e-8, 1e11)


def page_of(folder: Path, *findings: object) -> str:
    write_run(folder, "finished", [entry("00_good")])
    write_findings(folder, list(findings))  # type: ignore[arg-type]
    index.write_run_index(folder)
    return (folder / "index.html").read_text(encoding="utf-8")


@given(st.lists(RATES, min_size=1, max_size=20))
def test_an_axis_holds_its_values_and_its_labels_have_room(values: list[float]) -> None:
    for width in (158.0, 280.0):
        axis = axis_of(values, 10.0, width)
        assert axis.low <= min(values) <= max(values) <= axis.high
        ticks = axis.ticks()
        assert len(ticks) >= 2
        assert axis.low <= ticks[0]
        assert ticks[-1] <= axis.high
        places = [axis.at(tick) for tick in ticks]
        apart = [after - before for before, after in itertools.pairwise(places)]
        assert min(apart) > 28
        assert 10 <= places[0] <= places[-1] <= 10 + width


def test_equal_steps_of_the_axis_are_equal_ratios() -> None:
    axis = axis_of([10.0, 1000.0], 0.0, 200.0)
    assert [axis.at(value) for value in (10, 100, 1000)] == pytest.approx([0, 100, 200])
    assert axis_of([20.0, 480.0], 0.0, 280.0).ticks() == [20, 50, 100, 200, 500]
    assert axis_of([20.0, 480.0], 0.0, 158.0).ticks() == [20, 50, 100, 200, 500]
    assert axis_of([12.0, 980.0], 0.0, 158.0).ticks() == [10, 30, 100, 300, 1000]


def test_one_value_alone_has_an_axis() -> None:
    assert axis_of([20.0], 0.0, 100.0)[:2] == (10.0, 50.0)


def test_the_best_and_the_baseline_are_drawn_whatever_is_left_out() -> None:
    rungs = [Rung(f"r{n}", "ours", 100.0 - n) for n in range(20)]
    shown = chosen(rungs, ["r10", "r19"], 6)
    assert [one.name for one in shown] == ["r0", "r1", "r2", "r3", "r10", "r19"]
    assert chosen(rungs[:3], ["r1"], 6) == rungs[:3]


def test_marks_stand_where_the_numbers_say() -> None:
    found = picture([rung("fused", 330.0), rung("llama.cpp", 119.0, engine=THEIRS)])
    assert found is not None
    tall = next(one for one in found["drawings"] if one["kind"] == "tall")
    size = next(one for one in SIZES if one.kind == "tall")
    axis = axis_of([20.0, 660.0], size.names, size.width - size.names - size.values)
    first = tall["rows"][0]
    assert (first["name"], first["whose"], first["value"]) == ("fused", "ours", "330")
    assert float(first["x"]) == pytest.approx(axis.at(330.0), abs=0.06)
    assert float(first["limit"]) == pytest.approx(axis.at(660.0), abs=0.06)
    assert float(first["band"][0]) == pytest.approx(axis.at(495.0), abs=0.06)
    low, high = (float(end) for end in first["whisker"])
    assert low == pytest.approx(axis.at(20 * 330 / 21), abs=0.06)
    assert high == pytest.approx(axis.at(20 * 330 / 19), abs=0.06)
    assert [row["whose"] for row in tall["rows"]] == ["ours", "other", "other"]
    assert tall["rows"][2]["whisker"] is None, "the baseline is what others are compared with"


def test_drafts_are_a_range_on_top() -> None:
    kinds = [draft("chat", 231.0), draft("translation", 502.0)]
    found = picture([rung("fused", 330.0), *kinds])
    assert found is not None
    first = found["drawings"][0]["rows"][0]
    assert (first["name"], first["value"]) == ("with drafts, by task", "231–502")
    assert found["alt"].startswith(
        "Tokens a second in decode, the fastest first: with drafts 231–502; fused (ours) 330; "
    )


def test_a_run_without_decode_rates_has_no_picture(tmp_path: Path) -> None:
    assert picture([]) is None
    assert picture([finding(phase="prefill", metric="prefill_rate")]) is None
    page = page_of(tmp_path, *several()[3:])
    assert "<svg" not in page
    assert "4 findings" not in page


def test_the_picture_has_words_a_table_and_escaped_names(tmp_path: Path) -> None:
    page = page_of(tmp_path, finding(variant=HOSTILE, baseline=HOSTILE), draft(HOSTILE, 300.0))
    harmless(page)
    pictures = [one for one in Tags(page).named("svg") if one.get("role") == "img"]
    assert len(pictures) == len(SIZES)
    assert all("tokens a second" in str(one["aria-label"]).lower() for one in pictures)
    assert "the picture as a table" in page
    assert "decode, tokens/s (log scale)" in page
