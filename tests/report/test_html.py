"""The page of a notebook: it needs no other file, and nothing in it can run."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nbformat
import pytest

from labkit.report.pages.html import (
    assignments,
    error_of,
    markdown,
    math,
    render_notebook,
    render_output,
)
from labkit.report.pages.links import of_notebook
from tests.browser_helpers import HOSTILE, finding

VOID = {"meta", "link", "img", "br", "hr", "input", "wbr", "col"}


class Tags(HTMLParser):
    """Every tag of a page with its attributes; fails where they do not nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def harmless(markup: str) -> None:
    """Nothing in the markup runs, and nothing is fetched."""
    for tag, attributes in Tags(markup).found:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert "javascript:" not in (value or "").lower()
            if name in ("src", "srcset", "data", "poster"):
                assert (value or "").startswith("data:image/")


def text_of(markup: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", markup))


def cell(source: str, *outputs: dict[str, Any], tags: list[str] | None = None) -> Any:
    made: Any = nbformat.v4.new_code_cell(source)
    made.metadata["tags"] = tags or []
    made.outputs = [nbformat.from_dict(output) for output in outputs]
    return made


def stream(text: str, name: str = "stdout") -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def data(mime: str, content: str, ours: bool = False) -> dict[str, Any]:
    marks = {mime: {"labkit": True}} if ours else {}
    return {"output_type": "display_data", "data": {mime: content}, "metadata": marks}


ERROR = {
    "output_type": "error",
    "ename": "ValueError",
    "evalue": "no <b>",
    "traceback": ["\x1b[0;31mValueError\x1b[0m", "no <b>"],
}


def page_of(tmp_path: Path, *cells: Any, **given: Any) -> str:
    notebook = nbformat.v4.new_notebook(cells=list(cells))
    nbformat.write(notebook, tmp_path / "in.ipynb")
    given = {"title": "A title", "run_name": "a run"} | given
    render_notebook(tmp_path / "in.ipynb", tmp_path / "out.html", **given)
    return (tmp_path / "out.html").read_text(encoding="utf-8")


def prose(source: str) -> Any:
    return nbformat.v4.new_markdown_cell(source)


def test_a_page_is_whole_and_has_one_heading(tmp_path: Path) -> None:
    page = page_of(tmp_path, prose("# A title\n\nWhy?"), cell("x = 1"), prose("# Another\n\nSo."))
    tags = Tags(page)
    assert page.startswith('<!doctype html>\n<html lang="en">')
    assert len(tags.named("h1")) == 1
    assert text_of(page).count("A title") == 2  # in <title> and in <h1>
    assert [meta.get("name") for meta in tags.named("meta")].count("viewport") == 1
    assert tags.named("link") == [{"rel": "icon", "href": "data:,"}]
    harmless(page)


def test_the_policy_of_a_notebook_page_allows_no_script_and_no_request(tmp_path: Path) -> None:
    metas = Tags(page_of(tmp_path)).named("meta")
    policy = next(m["content"] for m in metas if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert "http" not in policy


@pytest.mark.parametrize(
    "output",
    [
        stream(HOSTILE),
        stream(HOSTILE, "stderr"),
        data("text/html", HOSTILE),
        data("text/markdown", HOSTILE),
        data("text/markdown", f"$\\text{{{HOSTILE}}}$ and $${HOSTILE}$$"),
        data("text/markdown", "[x](javascript:alert(1)) ![y](http://example.org/y.png)"),
        data("text/markdown", "$\\href{javascript:alert(1)}{x}$"),
        data("text/plain", HOSTILE),
        data("application/javascript", "window.hacked = 1"),
        data("image/svg+xml", "<svg onload='window.hacked=1'/>"),
        data("image/png", '"><script>window.hacked=1</script>'),
        ERROR | {"traceback": [HOSTILE]},
    ],
)
def test_no_output_can_act(tmp_path: Path, output: dict[str, Any]) -> None:
    harmless(page_of(tmp_path, cell("# what a model said", output)))


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    found = [finding(variant=HOSTILE, baseline=HOSTILE, weights="<i>")]
    page = page_of(
        tmp_path, cell(f"x = {HOSTILE!r}"), title=HOSTILE, run_name=HOSTILE, findings=found,
        error=HOSTILE, status="failed", neighbours=(None, '"><script>'),
    )  # fmt: skip
    harmless(page)
    assert text_of(page).count(HOSTILE) >= 5


def test_a_page_opens_with_its_answer(tmp_path: Path) -> None:
    question = prose("# A title\n\nWhy is it so?")
    found = [finding(), finding(variant="transformers:bf16", of_bare_read_low=0.1)]
    page = page_of(tmp_path, question, findings=found)
    text = text_of(page).replace("\u00a0", " ")
    assert text.index("static cache reaches 86 % [82, 90]") < text.index("Why is it so?")
    assert "transformers:<wbr>bf16" in page
    assert "lead" not in page_of(tmp_path, question).split("</style>")[1]


def test_html_of_our_own_helpers_stands_as_it_is(tmp_path: Path) -> None:
    assert render_output(data("text/html", "<b>ours</b>", ours=True)) == "<b>ours</b>"
    assert (
        render_output(data("text/html", "<b>theirs</b>")) == "<pre>&lt;b&gt;theirs&lt;/b&gt;</pre>"
    )


def test_formulas_become_mathml() -> None:
    page = markdown("Say $\\frac{a}{b} \\ge 1$:\n\n$$\\max\\left(x, \\text{bytes read}\\right)$$")
    assert page.count("<math") == 2
    assert "<mfrac><mrow><mi>a</mi></mrow><mrow><mi>b</mi></mrow></mfrac>" in page
    assert '<span class="formula"><math display="block">' in page
    assert "$" not in page


def test_a_formula_that_cannot_be_parsed_is_shown_as_tex() -> None:
    assert math("<\\frac{", "inline") == "<code>&lt;\\frac{</code>"


@pytest.mark.parametrize(
    "text",
    ["`$a$ and $b$`", "It costs $5 or $6 a day.", "It costs \\$5, not $ 6 $.", "```\n$a$\n```"],
)
def test_dollars_that_are_no_formula_are_left_alone(text: str) -> None:
    assert "<math" not in markdown(text)


def test_markdown_tables_scroll_in_a_box_of_their_own() -> None:
    page = markdown("| a | b |\n|---|---|\n| 1 | 2 |")
    assert page.startswith('<div class="table"><table>')
    Tags(page)


def test_code_is_folded_with_its_first_line_as_a_hint(tmp_path: Path) -> None:
    page = page_of(tmp_path, cell("\nfirst = 1\nsecond = 2", stream("seen\n")))
    folded = re.search(r'<details class="code">(.*?)</details>', page, re.DOTALL)
    assert folded is not None
    assert text_of(folded[1]).strip() == "code first = 1first = 1\nsecond = 2"
    assert '<pre class="stdout">seen\n</pre>' in page


def test_progress_bars_and_widgets_leave_no_noise() -> None:
    bar = "\r  0%|          | 0/5 [00:00<?, ?it/s]\r 40%|####      | 2/5 [00:01<00:01, 2.1it/s]\n"
    assert render_output(stream(bar, "stderr")) == ""
    assert "a warning" in render_output(stream(bar + "a warning\n", "stderr"))
    widget = data("application/vnd.jupyter.widget-view+json", "{}")
    assert render_output(widget) == ""
    assert "40%|" in render_output(stream("40%|", "stdout"))  # what a notebook prints is shown


def test_long_output_loses_its_middle_and_says_so() -> None:
    shown = render_output(stream("a" * 1_000_000 + "the end"))
    assert len(shown) < 25_000
    assert "980,007 characters left out" in shown
    assert shown.endswith("the end</pre>")


def test_parameters_are_a_table_in_which_the_given_value_wins(tmp_path: Path) -> None:
    page = page_of(
        tmp_path,
        cell("model: str = ''\nrounds: int = 5", tags=["parameters"]),
        cell("# Parameters\nrounds = 7", tags=["injected-parameters"]),
        cell("print(rounds)"),
    )
    rows = [text_of(row).strip() for row in re.findall(r"<tr><th scope.*?</tr>", page, re.DOTALL)]
    assert rows[-2:] == ["model''", "rounds7"]
    assert "injected" not in page


def test_assignments_of_a_broken_cell_are_none() -> None:
    assert assignments("x = (") == {}
    assert assignments("x: int = 2\ny = [1, 'a']\nz: int") == {"x": "2", "y": "[1, 'a']"}


def test_a_failed_page_names_the_cell_and_the_error(tmp_path: Path) -> None:
    mark = "papermill-error-cell-tag"
    top: Any = nbformat.v4.new_markdown_cell(
        "An Exception was encountered", metadata={"tags": [mark]}
    )
    page = page_of(
        tmp_path, top, prose("# A title"), cell("fine = 1"), cell("ask()", ERROR),
        cell("never()"), status="failed",
    )  # fmt: skip
    banner = re.search(r'<p class="banner bad".*?</p>', page, re.DOTALL)
    assert banner is not None
    assert text_of(banner[0]) == "This notebook failed in code cell 2. ValueError: no <b>"
    assert '<details class="code" id="failed" open>' in page
    assert '<pre class="error">ValueError\nno &lt;b&gt;</pre>' in page
    assert "An Exception was encountered" not in page
    assert "\x1b" not in page


def test_a_notebook_whose_kernel_died_says_what_the_run_saw(tmp_path: Path) -> None:
    page = page_of(tmp_path, cell("x = 1"), status="failed", error="the kernel died")
    assert "<strong>This notebook failed.</strong> the kernel died" in page


def test_the_page_leads_back_and_on(tmp_path: Path) -> None:
    page = page_of(tmp_path, neighbours=("00_first", "02_third"))
    links = [link["href"] for link in Tags(page).named("a")]
    assert links[:3] == ["../index.html", "00_first.html", "02_third.html"]


def test_the_page_leads_to_its_data(tmp_path: Path) -> None:
    """To the files that exist, by names that a browser can follow from the page's folder."""
    run = tmp_path / "a run"
    names = ["findings/00_x.json", "notebooks/00_x.ipynb", "traces/00_x/50% of #1 é.json"]
    for name in [*names, "traces/00_x/notes.txt", "traces/01_y/other.json"]:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("{}")
    page = page_of(tmp_path, links=of_notebook(run, "00_x"))
    hrefs = [str(link["href"]) for link in Tags(page).named("a")]
    data = [href for href in hrefs if href not in ("../index.html",)]
    assert [(run / "reports" / unquote(href)).resolve() for href in data] == [
        (run / name).resolve() for name in names
    ]
    assert "#" not in "".join(data)
    assert "trace 50% of #1 é" in text_of(page)
    assert of_notebook(run, "02_none") == []


def test_the_error_of_a_notebook_is_its_last_line() -> None:
    notebook = nbformat.v4.new_notebook(cells=[cell("x", stream("a")), cell("y", ERROR)])
    assert error_of(notebook) == "ValueError: no <b>"
    assert error_of(nbformat.v4.new_notebook()) is None
