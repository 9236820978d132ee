"""The pages in a real browser, opened from disk without a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.browser_helpers import HOSTILE, outputs_with_runs
from tests.chromium import open_browser

pytestmark = pytest.mark.browser

PAGES = {
    "runs": "index.html",
    "run": "executed/index.html",
    "unfinished": "cut-off/index.html",
    "unreadable": "older/index.html",
    "notebook": "executed/reports/00_good.html",
    "failed notebook": "executed/reports/01_bad.html",
}
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}

# The contrast of each visible text with the first opaque background behind it (WCAG 2.2, 1.4.3).
FAINT = """() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => numbers(color).slice(0, 3)
    .map((x) => x / 255).map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
    .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (numbers(color)[3] !== 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const faint = [];
  let seen = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const color = element instanceof SVGElement ? style.fill : style.color;
    const pair = [light(color), light(ground(element))].sort((a, b) => b - a);
    seen += 1;
    if ((pair[0] + 0.05) / (pair[1] + 0.05) < 4.5) faint.push([walker.currentNode.data, color]);
  }
  return [seen, faint];
}"""


@dataclass
class Opened:
    """A page, its requests and its error messages."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium."""
    with open_browser() as found:
        yield found


@pytest.fixture(scope="module")
def outputs(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Executed notebooks and their pages; not made without a browser."""
    return outputs_with_runs(tmp_path_factory.mktemp("pages") / "outputs")


@contextmanager
def opened(browser: Any, path: Path, size: str = "desktop", **given: Any) -> Iterator[Opened]:
    """A page opened from disk, offline, as wide as a desk's or a phone's screen."""
    width, height = SIZES[size]
    view = {"width": width, "height": height}
    context = browser.new_context(viewport=view, offline=True, **given)
    try:
        found = Opened(context.new_page())
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.on("console", lambda message: found.complaints.append(message.text))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.goto(path.as_uri())
        yield found
    finally:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_asks_for_nothing_and_is_legible(
    browser: Any, outputs: Path, name: str, size: str, scheme: str
) -> None:
    path = outputs / PAGES[name]
    with opened(browser, path, size, color_scheme=scheme) as found:
        assert found.requests == [path.as_uri()]
        assert found.complaints == []
        assert found.page.evaluate("window.hacked") is None
        wide, room = found.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= room
        for summary in found.page.locator("summary").all():
            summary.click()
        seen, faint = found.page.evaluate(FAINT)
        assert seen > 10
        assert faint == []
        wide = found.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= room, "an opened fold widens the page"
        assert found.requests == [path.as_uri()]


def test_a_page_leads_to_files_that_are_there(browser: Any, outputs: Path) -> None:
    for name, count in (("notebook", 4), ("run", 3)):
        with opened(browser, outputs / PAGES[name]) as found:
            hrefs = found.page.locator(".data a").evaluate_all("all => all.map((a) => a.href)")
            assert len(hrefs) == count
            for href in hrefs:
                assert Path(unquote(urlsplit(href).path)).is_file()
                assert not urlsplit(href).fragment


def test_dark_is_dark_and_light_is_light(browser: Any, outputs: Path) -> None:
    grounds = []
    for scheme in ("light", "dark"):
        with opened(browser, outputs / PAGES["run"], color_scheme=scheme) as found:
            script = "getComputedStyle(document.documentElement).backgroundColor"
            grounds.append(found.page.evaluate(script))
    assert grounds == ["rgb(252, 252, 250)", "rgb(21, 24, 27)"]


@pytest.mark.parametrize("size", SIZES)
def test_the_first_screen_is_the_answer(browser: Any, outputs: Path, size: str) -> None:
    with opened(browser, outputs / PAGES["run"], size) as found:
        page = found.page
        matter = page.locator(".matters tr", has_text="one answer")
        for shown in (page.locator("h1"), page.locator(".lead"), matter):
            box = shown.bounding_box()
            assert box is not None
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= SIZES[size][1]
        assert "static cache against no cache" in matter.inner_text()
        page.locator("summary", has_text="The good one").click()
        first = page.locator("table.findings tr", has_text="static cache").first
        text = first.inner_text().replace("\u00a0", " ")
        places = [text.index(part) for part in ("86 % [82, 90]", "62 %", "3.10x ▲ faster")]
        assert places == sorted(places)


def test_findings_are_rows_on_a_desk_and_cards_on_a_phone(browser: Any, outputs: Path) -> None:
    tall = []
    for size in SIZES:
        with opened(browser, outputs / PAGES["run"], size) as found:
            found.page.locator("summary", has_text="The good one").click()
            row = found.page.locator("table.findings tr", has_text="sliding window")
            cells = [cell.bounding_box() for cell in row.locator("th, td").all()]
            tall.append(len({round(cell["y"]) for cell in cells}))
    assert tall[0] == 1
    assert tall[1] >= 3


def test_a_notebook_page_shows_its_figure_formula_table_and_code(
    browser: Any, outputs: Path
) -> None:
    with opened(browser, outputs / PAGES["notebook"]) as found:
        page = found.page
        assert page.get_by_role("img", name="Speed rises with size.").is_visible()
        assert page.locator("math mfrac").first.bounding_box()["height"] > 10
        assert page.locator("blockquote").inner_text() == HOSTILE
        assert page.locator("caption", has_text="What was measured").is_visible()
        code = page.locator("details.code", has_text="axes.plot([1, 2, 4]")
        assert not code.locator("pre").is_visible()
        code.locator("summary").click()
        assert code.locator("pre").is_visible()


def test_wide_tables_scroll_in_their_own_box_and_figures_fit(browser: Any, outputs: Path) -> None:
    with opened(browser, outputs / PAGES["notebook"], "phone") as found:
        script = "all => all.some((box) => box.scrollWidth > box.clientWidth)"
        assert found.page.locator(".table").evaluate_all(script)
        assert not found.page.locator(".plot").evaluate_all(script)


def test_a_failed_notebook_leads_to_its_cell(browser: Any, outputs: Path) -> None:
    with opened(browser, outputs / PAGES["run"]) as found:
        page = found.page
        assert page.get_by_role("alert").inner_text().startswith("1 of 2 notebooks failed.")
        page.get_by_role("link", name="The bad one").click()
        assert "failed in code cell 2" in page.get_by_role("alert").inner_text()
        page.get_by_role("link", name="code cell 2").click()
        assert page.locator("#failed pre").is_visible()
        assert "ValueError: no <b>such</b> thing" in page.locator("pre.error").inner_text()


@pytest.mark.parametrize("size", SIZES)
def test_a_reader_compares_any_runs(browser: Any, outputs: Path, size: str) -> None:
    with opened(browser, outputs / PAGES["runs"], size) as found:
        page = found.page
        page.get_by_label("first").select_option(label="executed")
        beside = page.locator("#others")
        assert beside.get_by_label("executed").is_disabled()
        for box in beside.locator("input").all():
            box.set_checked(False, force=True)
        beside.get_by_label("another & <b>run").check()
        shown = page.locator("#comparison")
        note = shown.locator(".banner").inner_text()
        assert note == "Not the same torch: 2.13.0 in executed; 2.14.0 in another & <b>run."
        row = shown.locator("tr", has_text="static cache / no cache, decode, decode rate")
        assert row.count() == 1
        texts = [cell.inner_text().replace("\u00a0", " ") for cell in row.locator("td").all()]
        assert "31 tok/s\nspeedup 3.10x [2.90, 3.30]\n86 % [82, 90] of the bare read" in texts[0]
        assert "40 tok/s (1.29x)\nspeedup 3.10x" in texts[1]
        assert "–" in shown.locator("tr", has_text="paged cache").locator("td").first.inner_text()
        assert shown.locator("tr", has_text="<script>").count() == 1
        asked = shown.locator("tr", has_text="sliding window").locator("td").last.inner_text()
        assert "not the same work: prompt_tokens 9" in asked
        assert "x)" not in asked.splitlines()[0]
        beside.get_by_label("older").check()
        assert row.locator("td").count() == 3
        assert "older: findings.json has schema 1" in shown.inner_text()
        wide, room = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= room
        beside.get_by_label("older").uncheck()
        page.get_by_label("first").select_option(label="another & <b>run")
        assert shown.locator(".banner").count() == 0
        assert row.locator("td").count() == 1
        assert page.evaluate("window.hacked") is None
        assert found.complaints == []


def test_runs_without_findings_say_so_when_compared(browser: Any, outputs: Path) -> None:
    with opened(browser, outputs / PAGES["runs"]) as found:
        page = found.page
        for box in page.locator("#others input").all():
            box.set_checked(False, force=True)
        page.get_by_label("first").select_option(label="cut-off")
        assert page.locator("#comparison").inner_text() == "None of these runs has findings."


def test_the_list_of_runs_works_without_scripts(browser: Any, outputs: Path) -> None:
    with opened(browser, outputs / PAGES["runs"], java_script_enabled=False) as found:
        page = found.page
        assert not page.locator("#compare").is_visible()
        assert page.get_by_text("labkit compare RUN RUN").is_visible()
        assert page.locator("tr", has_text="broken").is_visible()
        page.get_by_role("link", name="another & <b>run").click()
        assert page.locator("h1").inner_text() == "another & <b>run"


@pytest.mark.parametrize("name", ["runs", "notebook"])
def test_the_policy_stops_what_escaping_would_have_missed(
    browser: Any, outputs: Path, tmp_path: Path, name: str
) -> None:
    whole = (outputs / PAGES[name]).read_text(encoding="utf-8")
    leaky = whole.replace("</h1>", f"</h1>{HOSTILE}<a id=x href='javascript:hacked=1'>x</a>", 1)
    assert leaky != whole
    (tmp_path / "leaky.html").write_text(leaky, encoding="utf-8")
    with opened(browser, tmp_path / "leaky.html") as found:
        found.page.locator("#x").click()
        assert found.page.evaluate("window.hacked") is None
        assert any("Content Security Policy" in text for text in found.complaints)


def test_pages_are_small_enough_to_send(outputs: Path) -> None:
    for path in outputs.rglob("*.html"):
        assert path.stat().st_size <= 1.5e6
