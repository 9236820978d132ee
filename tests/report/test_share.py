"""A run as one file: every link leads somewhere within it, ids are unique, nothing is fetched."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from labkit.errors import LabkitError, ParameterError
from labkit.report.pages import share as module
from labkit.report.pages.share import one_file, share
from tests.browser_helpers import HOSTILE, entry, several, write_findings, write_run
from tests.report.test_html import Tags, cell, data, harmless, page_of, prose, text_of

SVG = '<svg role="img"><defs><g id="f1-a"/></defs><use xlink:href="#f1-a"/>' \
    '<g clip-path="url(#f1-a)"/></svg>'  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two notebooks with pages, and one without."""
    folder = tmp_path / "a run"
    names = ["00_first", "01_50% of #1"]
    write_run(folder, "finished", [entry(name) for name in (*names, "02_none")])
    write_findings(folder, several())
    (folder / "reports").mkdir()
    for name, neighbours in zip(names, [(None, "01_x"), ("00_first", None)], strict=True):
        text = "[web](https://example.org/a?b=1&c) [gone](other.html#x) [here](#f1-a)"
        figure = cell("x = 1", data("text/html", SVG, ours=True), data("text/plain", HOSTILE))
        page_of(tmp_path, prose(text), prose(text), figure, title=name, neighbours=neighbours)
        (tmp_path / "out.html").rename(folder / "reports" / f"{name}.html")
    return folder


def shared(run: Path, tmp_path: Path) -> str:
    return share(str(run), tmp_path / "it.html").read_text(encoding="utf-8")


def test_every_link_leads_within_the_file_or_to_the_web(run: Path, tmp_path: Path) -> None:
    page = shared(run, tmp_path)
    ids = Counter(str(attributes["id"]) for _, attributes in Tags(page).found if "id" in attributes)
    assert max(ids.values()) == 1
    hrefs = [str(one["href"]) for one in Tags(page).named("a") if "href" in one]
    within = [href[1:] for href in hrefs if href.startswith("#")]
    assert set(within) <= set(ids)
    assert {"p0", "p1", "p2"} <= set(within)
    assert {href for href in hrefs if not href.startswith("#")} == {"https://example.org/a?b=1&c"}
    uses = [str(one["xlink:href"])[1:] for one in Tags(page).named("use")]
    assert set(uses) == {"p1-f1-a", "p2-f1-a"} <= set(ids)
    assert page.count("url(#p1-f1-a)") == 1


def test_the_file_holds_all_pages_and_can_do_nothing(run: Path, tmp_path: Path) -> None:
    page = shared(run, tmp_path)
    harmless(page)
    text = text_of(page)
    for said in ("00_first", "01_50% of #1", HOSTILE, "All findings", "pages of the run a run"):
        assert said in text
    assert page.count('<section class="page"') == 3
    assert page.count("<main>") == page.count("</main>") == page.count("<style>") == 1
    assert "default-src 'none'" in page
    assert "gone" in text


def test_what_cannot_be_shared_is_refused(run: Path, tmp_path: Path) -> None:
    for target in ("x.pdf", "x"):
        with pytest.raises(ParameterError, match=r"FILE must end in \.html or \.htm"):
            share(str(run), tmp_path / target)
    with pytest.raises(ParameterError, match="no run named"):
        share("no-such-run")
    with pytest.raises(ParameterError, match="a page of the run itself"):
        share(str(run), run / "reports" / ".." / "index.html")
    (tmp_path / "taken.html").mkdir()
    with pytest.raises(LabkitError, match="cannot be written"):
        share(str(run), tmp_path / "taken.html")


def test_a_page_that_is_not_ours_is_refused(run: Path, tmp_path: Path) -> None:
    path = run / "reports" / "00_first.html"
    for content in (b"<p>text</p>", b"</main><main>", b""):
        path.write_bytes(content)
        with pytest.raises(LabkitError, match="00_first.html is no page of ours"):
            share(str(run), tmp_path / "it.html")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(LabkitError, match="00_first.html cannot be read"):
        share(str(run), tmp_path / "it.html")
    assert not (tmp_path / "it.html").exists()


def test_a_file_that_is_too_large_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST", 1000)
    with pytest.raises(LabkitError, match="allowed are 0 MB"):
        share(str(run), tmp_path / "it.html")
    assert not (tmp_path / "it.html").exists()


def test_the_default_is_the_name_of_the_run_here(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert share(str(run)) == Path("a run.html")
    assert (tmp_path / "a run.html").is_file()


@pytest.mark.parametrize(
    "href", ["//[", "javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "../../x", ""]
)
def test_a_link_to_anywhere_else_is_no_link(href: str) -> None:
    pages = {"index.html": f'<main><a title="t" href="{href}">text</a></main>'}
    (link,) = Tags(one_file(pages, "t", "n")).named("a")
    assert link in ({"title": "t"}, {"title": "t", "href": "#p0"})
    assert ("href" in link) == (href == "")


def test_an_unfinished_run_can_be_shared(tmp_path: Path) -> None:
    write_run(tmp_path / "r", "unfinished", [])
    (tmp_path / "r" / "run.json").write_text(json.dumps({"title": [HOSTILE], "notebooks": 3}))
    page = shared(tmp_path / "r", tmp_path)
    harmless(page)
    assert len(re.findall('<section class="page"', page)) == 1
