"""What notebooks show: figures in the page's colours, escaped tables and quotes, text elsewhere."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from typing import Any
from xml.etree import ElementTree

import pytest

from labkit.report.told import plots
from labkit.report.told.finding import load_findings
from tests.browser_helpers import HOSTILE, finding, several


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was displayed while the test ran."""
    found: list[Any] = []
    monkeypatch.setattr(plots, "display", found.append)
    monkeypatch.setattr(plots, "in_notebook", lambda: True)
    return found


def drawn(label: str = "one", size: int = 3) -> str:
    figure, axes = plots.new_figure()
    axes.plot(range(size), [value / 3 for value in range(size)], label=label)
    axes.legend()
    return plots.svg(figure, alt=f"A line: {HOSTILE}")


def test_a_figure_is_one_well_formed_element_with_a_text_alternative() -> None:
    root = ElementTree.fromstring(drawn())
    assert root.tag.endswith("svg")
    assert root.get("role") == "img"
    assert root.get("aria-label") == f"A line: {HOSTILE}"


def test_a_figure_takes_the_page_ink_and_leaves_its_ground() -> None:
    markup = drawn()
    assert "currentColor" in markup
    assert plots._FOREGROUND not in markup
    assert not re.search(r"fill: (#ffffff|white)", markup)


def test_a_figure_keeps_text_as_text_and_does_not_shorten_its_numbers() -> None:
    root = ElementTree.fromstring(drawn("read at 1.23456 GB/s"))
    texts = [element.text for element in root.iter() if element.tag.endswith("}text")]
    assert "read at 1.23456 GB/s" in texts


def test_a_figure_brings_no_style_date_or_long_coordinates_to_the_page() -> None:
    markup = drawn()
    assert "<style" not in markup
    assert "<metadata" not in markup
    assert not re.search(r"\d\.\d{3,}", markup)


def test_a_figure_of_many_points_stays_small() -> None:
    assert len(drawn(size=5000).encode()) < 150_000


def test_ids_of_two_figures_never_meet() -> None:
    first, second = (set(re.findall(r' id="([^"]+)"', drawn())) for _ in range(2))
    assert first
    assert not first & second


def test_every_reference_inside_a_figure_finds_its_target() -> None:
    markup = drawn()
    ids = set(re.findall(r' id="([^"]+)"', markup))
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', markup)
    assert used
    assert {a or b for a, b in used} <= ids


def luminance(color: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("ground", ["#fcfcfa", "#15181b"])
@pytest.mark.parametrize("color", plots.COLORS)
def test_data_colours_stand_out_on_both_grounds(color: str, ground: str) -> None:
    light, dark = sorted((luminance(color), luminance(ground)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3  # what WCAG asks of graphics


def test_tables_escape_and_align() -> None:
    markup = plots.table_html(
        [
            {"name": HOSTILE, "rate": 1234.5, "time": "12 ms", "lossless": True},
            {"name": "2 words", "rate": 0.012345, "time": None, "lossless": False},
        ],
        caption=HOSTILE,
    )
    assert "<script" not in markup
    assert "<img" not in markup
    assert markup.count(html.escape(HOSTILE)) == 2
    assert '<th scope="col" class="number">rate</th>' in markup
    assert '<td class="number">1,234</td><td class="number">12 ms</td><td>yes</td>' in markup
    assert '<td>2 words</td><td class="number">0.0123</td><td class="number">–</td>' in markup


def test_a_sentence_in_a_column_of_numbers_wraps() -> None:
    sentence = "3 times as long as with `--unchecked`, which is wrong"
    markup = plots.table_html(
        [{"rate": "2.59x [2.43, 2.75]", "note": None}] * 2 + [{"rate": sentence, "note": sentence}]
    )
    assert '<td class="number">2.59x [2.43, 2.75]</td><td>–</td>' in markup
    assert markup.count('<td class="long">3 times as long as with <code>--unchecked</code>,') == 2
    assert '<th scope="col">note</th>' in markup


def test_backticks_are_code_on_a_page_and_nothing_in_a_terminal() -> None:
    assert "<caption><code>a&lt;b</code> is</caption>" in plots.table_html([{"a": 1}], "`a<b` is")
    assert plots.table_text([{"a": "`b`"}], "`a` is") == "a is\na\nb"


def test_tables_keep_columns_that_only_some_rows_have() -> None:
    markup = plots.table_html([{"a": 1}, {"b": 2}])
    assert re.findall(r"<th[^>]*>(\w)</th>", markup) == ["a", "b"]
    assert "nothing to show" in plots.table_html([], "Rates")


@pytest.mark.parametrize(
    ("value", "said"),
    [(1234567, "1,234,567"), (99.95, "100"), (0.5, "0.5"), (1e-9, "1e-09"), (None, "–")],
)
def test_numbers_have_three_digits(value: object, said: str) -> None:
    assert plots.number(value) == said


def test_model_output_is_escaped(shown: list[Any]) -> None:
    plots.quote(HOSTILE)
    assert shown[0].data == f"<blockquote><pre>{html.escape(HOSTILE)}</pre></blockquote>"


def test_what_is_shown_carries_the_mark_the_page_trusts(shown: list[Any]) -> None:
    plots.table([{"a": 1}])
    assert shown[0].metadata == {"labkit": True}


def test_a_figure_is_shown_with_its_escaped_caption(shown: list[Any]) -> None:
    figure, _ = plots.new_figure(columns=2)
    plots.show(figure, alt="nothing", caption="a < b")
    assert "<figcaption>a &lt; b</figcaption>" in shown[0].data
    assert "max-width:691px" in shown[0].data


def test_panels_that_stand_beside_each_other_are_marked(shown: list[Any]) -> None:
    plots.show(plots.new_figure(columns=2)[0], alt="two")
    plots.show(plots.new_figure()[0], alt="one of `a`", caption="`a`")
    assert '<div class="plot panels">' in shown[0].data
    assert '<div class="plot">' in shown[1].data
    assert "<figcaption><code>a</code></figcaption>" in shown[1].data
    assert 'aria-label="one of a"' in shown[1].data


def test_source_shows_the_module_itself(shown: list[Any]) -> None:
    plots.source(load_findings)
    text = html.unescape(re.sub(r"<[^>]+>", "", shown[0].data))
    assert "labkit.report.told.finding.load_findings" in text
    assert "def load_findings(path: Path) -> list[Finding]:" in text


def test_a_script_gets_text(capsys: pytest.CaptureFixture[str]) -> None:
    """No kernel: tables in columns, sentences without Markdown, figures in words."""
    assert not plots.in_notebook()
    plots.table([{"name": "static cache", "rate": 1234.5}, {"name": "no", "more": None}], "Rates")
    plots.say("It is **2.1x** as fast as `generate`.")
    figure, _ = plots.new_figure()
    plots.show(figure, "A line that rises.", "One line.")
    plots.quote("what a model said")
    plots.source(load_findings)
    plots.source_text("product.h", "int x;")
    assert capsys.readouterr().out.splitlines() == [
        "",
        "Rates",
        "name          rate   more",
        "static cache  1,234",
        "no                   –",
        "",
        "It is 2.1x as fast as generate.",
        "[figure] A line that rises.",
        "One line.",
        "what a model said",
        "[source of labkit.report.told.finding.load_findings]",
        "[source of product.h]",
    ]


def test_a_script_gets_its_findings_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    plots.show_findings(several())
    said = capsys.readouterr().out
    assert "IPython" not in said
    assert "static cache" in said.splitlines()[3]


def test_findings_are_shown_in_one_table(shown: list[Any]) -> None:
    plots.show_findings(several())
    assert shown[0].data.count("<tr>") == 5
    assert "<script" not in shown[0].data
    row = plots.finding_row(finding())
    assert row["speedup"] == "3.10x [2.90, 3.30]"
    assert row["metric"] == "decode rate"


@pytest.mark.parametrize("backend", ["nonsense", "module://none", "Qt5Agg", ""])
def test_a_backend_that_is_none_stops_no_figure(backend: str) -> None:
    """matplotlib is imported in a process of its own: here it has been already."""
    code = "from labkit.report.told import plots\nplots.new_figure()\n"
    code += "import os; print(repr(os.environ['MPLBACKEND']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"MPLBACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == repr(backend), done.stderr[-2000:]
