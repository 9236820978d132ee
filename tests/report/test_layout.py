"""What is wide on a page in a real browser: it takes the room that there is, and is never cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit.report.told import plots
from labkit.studies import the_limit_figures
from tests.browser_helpers import HOSTILE, finding, several
from tests.chromium import open_browser
from tests.report.test_browser import SIZES, opened
from tests.report.test_html import cell, data, page_of

pytestmark = pytest.mark.browser

# What reaches beyond the screen and is in no box that scrolls.
BEYOND = """() => [...document.querySelectorAll("body *")].filter((element) => {
  const box = element.getBoundingClientRect();
  if (!box.width || (box.left >= -0.5 && box.right <= innerWidth + 0.5)) return false;
  for (let at = element.parentElement; at; at = at.parentElement)
    if (getComputedStyle(at).overflowX !== "visible") return false;
  return true;
}).map((element) => element.outerHTML.slice(0, 80))"""
# Boxes of tables that scroll, and how many pixels of the screen they leave free.
SCROLLING = """() => [...document.querySelectorAll(".table")]
  .filter((box) => box.scrollWidth > box.clientWidth)
  .map((box) => innerWidth - box.clientWidth)"""
# Where captions begin and end, once their boxes are scrolled to one of their ends.
CAPTIONS = """(end) => [...document.querySelectorAll(".table caption, figcaption")].map((told) => {
  const scroller = told.closest(".table");
  if (scroller) scroller.scrollLeft = end * scroller.scrollWidth;
  const box = told.getBoundingClientRect();
  return [box.left, box.right];
})"""
# Pieces of names that a line divides: a text with more than one line box.
DIVIDED = """() => [...document.querySelectorAll(".findings th strong")].flatMap((name) =>
  [...name.childNodes].filter((piece) => {
    const range = document.createRange();
    range.selectNodeContents(piece);
    return piece.data && range.getClientRects().length > 1;
  }).map((piece) => piece.data))"""
# An engine's name has hyphens, at which a line may end.
NAMES = ["transformers:bf16", "fused:all-logits", "ik_llama.cpp:q4_0", "openvino:int4_symmetric"]
NOTE = "2 of 3 lie inside the measured interval; to see it: `python -m labkit.bench.quality`"


def _rows() -> list[dict[str, object]]:
    """Rows of a table that is wider than the text, and not wider than a desk's screen."""
    columns = {f"column {n}": "2.59x [2.43, 2.75]" for n in range(5)}
    return [{"variant": name, **columns, "note": NOTE} for name in NAMES]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium."""
    with open_browser() as found:
        yield found


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page with tables and figures of every width."""
    shown: list[str] = []
    monkeypatch.setattr(plots, "show_html", lambda markup, text: shown.append(markup))
    caption = "Every variant beside the others, in a caption that is longer than a line of a phone"
    plots.table(_rows(), caption)
    plots.table([plots.finding_row(one) for one in several()], "Findings")
    plots.table([{f"column {n}": "2.59x [2.43, 2.75]" for n in range(20)}], f"{caption}: wider")
    plots.table([{"a": 1, "b": HOSTILE}], caption)
    rates = {name: 10.0 * n for n, name in enumerate(NAMES, 1)}
    the_limit_figures.rates(rates, {}, {}, NAMES[:1], "Bars.", caption)
    plots.show(plots.new_figure(7.2, 2.8)[0], "One panel.")
    plots.show(plots.new_figure(7.6, 3.2, columns=2)[0], "Two panels.", caption)
    cells = [cell("x = 1", data("text/html", markup, ours=True)) for markup in shown]
    page_of(tmp_path, *cells, findings=[finding(variant=name) for name in NAMES])
    return tmp_path / "out.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_cut(browser: Any, path: Path, size: str, scheme: str) -> None:
    with opened(browser, path, size, color_scheme=scheme) as found:
        page, (room, _) = found.page, SIZES[size]
        assert page.evaluate(BEYOND) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= room
        assert page.evaluate(DIVIDED) == []
        for end in (0, 1):
            places = page.evaluate(CAPTIONS, end)
            assert len(places) == 6
            assert min(left for left, _ in places) >= 0
            assert max(right for _, right in places) <= room


def test_a_table_scrolls_only_where_no_room_is_left(browser: Any, path: Path) -> None:
    scrolling = {}
    for size in SIZES:
        with opened(browser, path, size) as found:
            scrolling[size] = found.page.evaluate(SCROLLING)
    assert len(scrolling["desktop"]) == 1, "the one of twenty columns"
    assert len(scrolling["phone"]) >= 3
    assert max(scrolling["desktop"]) <= 48
    assert max(scrolling["phone"]) <= 32


def test_a_narrow_table_stays_in_line_with_the_text(browser: Any, path: Path) -> None:
    with opened(browser, path) as found:
        script = "all => all.map((one) => one.getBoundingClientRect().left)"
        places = found.page.locator(".table").evaluate_all(script)
        title = found.page.locator("h1").evaluate_all(script)[0]
    assert places[3] == pytest.approx(title, abs=0.6)
    assert places[0] < title - 40, "a wide one takes the margins on both sides"


def test_figures_fit_a_phone_or_show_one_panel_at_a_time(browser: Any, path: Path) -> None:
    with opened(browser, path, "phone") as found:
        script = "all => all.map((box) => box.scrollWidth / box.clientWidth)"
        bars, one, two = found.page.locator(".plot").evaluate_all(script)
    assert bars == one == 1
    assert 1.5 < two < 2
