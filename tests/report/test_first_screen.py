"""The first screen of a run in a real browser, and a run in one file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from labkit.base.paths import project_root
from labkit.report.pages.index import write_run_index
from labkit.report.pages.share import LARGEST, share
from labkit.report.told.finding import load_findings
from tests.browser_helpers import write_findings
from tests.chromium import open_browser
from tests.report.test_browser import FAINT, SIZES, opened
from tests.report.test_matters import many, whole

pytestmark = pytest.mark.browser

EXAMPLE = project_root() / "outputs" / "example"
# Of the picture that is shown: pixels on the screen for each of its own, and the text that a mark
# or another text covers.
DRAWN = """() => {
  const picture = [...document.querySelectorAll("svg.ladder")].find((one) => one.checkVisibility());
  const place = (one) => one.getBoundingClientRect();
  const apart = (a, b) =>
    a.right <= b.left + 1 || b.right <= a.left + 1 ||
    a.bottom <= b.top + 3 || b.bottom <= a.top + 3;
  const texts = [...picture.querySelectorAll("text")];
  const marks = [...picture.querySelectorAll("circle, rect, .whisker, .edge")];
  const covered = texts.filter((text) =>
    [...texts, ...marks].some((other) => other !== text && !apart(place(text), place(other))));
  const scale = place(picture).width / picture.viewBox.baseVal.width;
  return [scale, covered.map((text) => text.textContent), texts.length];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium."""
    with open_browser() as found:
        yield found


@pytest.fixture(scope="module", params=["example", "more notebooks"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed run, and the same with what further notebooks find; its page made anew."""
    folder = tmp_path_factory.mktemp("first") / "example"
    shutil.copytree(EXAMPLE, folder)
    if request.param != "example":
        more = [one for one in whole() if one.technique in ("batching", "caching")]
        shared = "512 shared tokens on disk, held by the system"
        more.append(many("64 requests", 900.0))
        more += [replace(one, variant=shared) for one in more if one.metric == "ttft"]
        write_findings(folder, [*load_findings(EXAMPLE / "findings.json"), *more])
    write_run_index(folder)
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_sentence_picture_and_rows_are_on_the_first_screen(
    browser: Any, run: Path, size: str, scheme: str
) -> None:
    path = run / "index.html"
    width, height = SIZES[size]
    with opened(browser, path, size, color_scheme=scheme) as found:
        page = found.page
        rows = page.locator(".matters tbody tr").all()
        picture = page.locator("svg.ladder").locator("visible=true")
        assert len(rows) == 5
        assert picture.count() == 1
        for shown in (page.locator("h1"), page.locator(".lead"), picture, *rows):
            box = shown.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["y"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["y"] + box["height"] <= height
        assert page.evaluate(FAINT)[1] == []
        assert found.requests == [path.as_uri()]
        assert found.complaints == []


@pytest.mark.parametrize("size", SIZES)
def test_the_picture_is_legible_and_nothing_covers_its_words(
    browser: Any, run: Path, size: str
) -> None:
    with opened(browser, run / "index.html", size) as found:
        scale, covered, texts = found.page.evaluate(DRAWN)
    assert 12 * scale >= 11, "pixels of a letter's height"
    assert covered == []
    assert texts > 20


def test_all_other_findings_are_folded_and_controls_stand_apart(browser: Any, run: Path) -> None:
    with opened(browser, run / "index.html") as found:
        page = found.page
        assert not page.locator("table.findings").first.is_visible()
        page.locator("summary", has_text="The KV cache").click()
        assert page.locator("table.findings", has_text="static cache").first.is_visible()
        below = page.locator("h2", has_text="Controls")
        planted = page.locator("table.findings tr", has_text="slowed by")
        assert planted.count() == 1
        page.locator("summary", has_text="Honest timing").click()
        assert planted.bounding_box()["y"] > below.bounding_box()["y"]


def test_a_printed_page_holds_what_is_folded(browser: Any, run: Path) -> None:
    with opened(browser, run / "index.html") as found:
        found.page.emulate_media(media="print")
        tables = found.page.locator("table.findings").all()
        assert all(one.bounding_box()["height"] > 20 for one in tables)


@pytest.mark.parametrize(("size", "scripts"), [("desktop", True), ("phone", False)])
def test_a_shared_file_shows_each_page_by_plain_links(
    browser: Any, run: Path, tmp_path: Path, size: str, scripts: bool
) -> None:
    path = share(str(run), tmp_path / "mailed.html")
    assert path.stat().st_size < LARGEST
    with opened(browser, path, size, java_script_enabled=scripts) as found:
        page = found.page
        assert [one.get_attribute("id") for one in _shown(page)] == ["p0"]
        listed = page.locator("#p0 table.notebooks")
        titles = [one.inner_text() for one in listed.locator("a").all()]
        assert len(titles) >= 7
        for title in titles:
            listed.get_by_role("link", name=title, exact=True).click()
            (section,) = _shown(page)
            assert section.locator("h1").inner_text() == title
            section.locator("nav a").first.click()
            assert [one.get_attribute("id") for one in _shown(page)] == ["p0"]
        targets = {str(one) for one in _hrefs(page) if one}
        assert all(one.startswith(("#", "https://")) for one in targets)
        assert found.requests[0] == path.as_uri()
        assert {one.split("#")[0] for one in found.requests} == {path.as_uri()}
        assert found.complaints == []


def _shown(page: Any) -> list[Any]:
    return [one for one in page.locator("section.page").all() if one.is_visible()]


def _hrefs(page: Any) -> list[str | None]:
    return [one.get_attribute("href") for one in page.locator("a[href]").all()]
