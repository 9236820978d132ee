"""Notebook output: figures as inline SVG, tables, sentences, model output, source.

All of it is drawn by matplotlib or escaped, so that a page is safe to share. Outside a notebook, as
in a script that runs a study, the same calls print text: a table in columns, a sentence without its
Markdown, and the text alternative of a figure.
"""

from __future__ import annotations

import html
import inspect
import io
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from IPython.core.getipython import get_ipython
from IPython.display import HTML, Markdown, display

from labkit.report.told import words
from labkit.report.told.finding import Finding

# Legible on white and on near-black, and apart for colour-blind eyes (after Okabe and Ito).
COLORS = ("#2f7fc1", "#d9730d", "#1a936f", "#b5559b", "#8a8f98", "#a5821c")
# Figures are drawn in this colour, which the page replaces by its own: they follow the theme.
_FOREGROUND = "#010203"
_numbers = itertools.count(1)
_LINE = 28  # characters of the longest number with its unit and interval, which no line divides

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "labkit",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": _FOREGROUND,
    "axes.labelcolor": _FOREGROUND,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlecolor": _FOREGROUND,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FOREGROUND,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.6,
    "text.color": _FOREGROUND,
    "xtick.color": _FOREGROUND,
    "ytick.color": _FOREGROUND,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.8,
    "figure.constrained_layout.use": True,
    "path.simplify_threshold": 0.5,
}


def in_notebook() -> bool:
    """Whether this runs in a kernel, whose client shows HTML."""
    return hasattr(get_ipython(), "kernel")


def show_html(markup: str, text: str) -> None:
    """Show markup, already escaped, in a notebook; print the text elsewhere.

    The metadata key `labkit` marks the markup as ours, which the page does not escape again.
    """
    if in_notebook():
        display(HTML(markup, metadata={"labkit": True}))
    else:
        print(text)


@contextmanager
def _without_backend() -> Iterator[None]:
    """matplotlib cannot be imported where MPLBACKEND names no backend; figures here need none."""
    given = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if given is not None:
            os.environ["MPLBACKEND"] = given


def new_figure(width: float = 7.2, height: float = 3.6, columns: int = 1) -> tuple[Any, Any]:
    """A figure in the project's style, and its axes: one, or an array of `columns`.

    width, height: inches.
    """
    with _without_backend():
        import matplotlib as mpl
    from cycler import cycler
    from matplotlib.figure import Figure

    style: Any = _STYLE | {"axes.prop_cycle": cycler(color=COLORS)}
    mpl.rcParams.update(style)
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(1, columns)


def label_log_axis(axis: Any, values: Sequence[float]) -> None:
    """Label a logarithmic axis at `values` only, with plain numbers."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axis.set_major_locator(FixedLocator(list(values)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")


def svg(figure: Any, alt: str) -> str:
    """The figure as an <svg> element: with a text alternative, and ids that no other figure has."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would style the page
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text)  # the page sets the size
    mark = f"f{next(_numbers)}-"
    text = re.sub(r"<[^>]+>", lambda tag: _tidy(tag[0], mark), text)
    label = html.escape(alt, quote=True)
    return text.replace("<svg", f'<svg role="img" aria-label="{label}" stroke-linejoin="round"', 1)


def _tidy(tag: str, mark: str) -> str:
    """A tag with short coordinates, the page's own foreground colour, and marked ids."""
    tag = re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", tag)
    tag = tag.replace(_FOREGROUND, "currentColor").replace(' id="', f' id="{mark}')
    return tag.replace('href="#', f'href="#{mark}').replace("url(#", f"url(#{mark}")


def show(figure: Any, alt: str, caption: str = "") -> None:
    """Display a figure. alt: what it shows, in words. caption: stands below it."""
    width = figure.get_figwidth() * 96
    below = f"<figcaption>{inline(caption)}</figcaption>" if caption else ""
    style = f"max-width:{width:.0f}px"
    kind = "plot panels" if _columns(figure) > 1 else "plot"
    drawn = f'<div class="{kind}">{svg(figure, _bare(alt))}</div>'
    said = _bare(f"[figure] {alt}" + (f"\n{caption}" if caption else ""))
    show_html(f'<figure style="{style}">{drawn}{below}</figure>', said)


def _columns(figure: Any) -> int:
    """How many axes stand beside each other."""
    places = [axes.get_subplotspec() for axes in figure.axes]
    return max((place.get_gridspec().ncols for place in places if place), default=0)


def inline(text: str) -> str:
    """Escaped text, in which what stands in backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _bare(text: str) -> str:
    """Text for a terminal: without the marks of Markdown."""
    return re.sub(r"\*\*|`", "", text)


def number(value: object) -> str:
    """The text of a table cell: numbers with three digits, and with separators from 1,000 on."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def table_html(rows: Sequence[Mapping[str, object]], caption: str = "") -> str:
    """Rows as an escaped HTML table; columns of numbers are aligned to the right, and cells that
    are too long for a line are marked, so that they wrap."""
    if not rows:
        return f"<p>{inline(caption)}: nothing to show.</p>"
    columns = list(dict.fromkeys(key for row in rows for key in row))
    right = {column for column in columns if _numeric([row.get(column) for row in rows])}

    def cell(tag: str, column: str, value: object) -> str:
        text, numeric = number(value), column in right
        long = tag == "td" and len(text) > (_LINE if numeric else 40)
        kind = ' class="long"' if long else ' class="number"' if numeric else ""
        scope = ' scope="col"' if tag == "th" else ""
        return f"<{tag}{scope}{kind}>{inline(text)}</{tag}>"

    head = "".join(cell("th", column, column) for column in columns)
    lines = ("".join(cell("td", c, row.get(c, "")) for c in columns) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    top = f"<caption>{inline(caption)}</caption>" if caption else ""
    parts = f"{top}<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="table"><table>{parts}</table></div>'


def _numeric(column: Sequence[object]) -> bool:
    """Whether most cells of a column are numbers, with or without a unit or an interval; a sentence
    that begins with a number is none."""
    cells = [number(value) for value in column if value not in (None, "", "–")]
    like = re.compile(r"[<≈(-]*\d[\d,.]*(e[+-]?\d+)?\b")
    found = sum(len(text) <= _LINE and bool(like.match(text)) for text in cells)
    return 2 * found > len(cells)


def table_text(rows: Sequence[Mapping[str, object]], caption: str = "") -> str:
    """The same table as text in columns, its caption above."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [{column: number(row.get(column, "")) for column in columns} for row in rows]
    return _bare(f"{caption}\n{words.text_table(cells)}").strip()


def table(rows: Sequence[Mapping[str, object]], caption: str = "") -> None:
    """Display rows as a table. Columns: the keys of the rows, in the order of their appearance."""
    show_html(table_html(rows, caption), f"\n{table_text(rows, caption)}\n")


def say(text: str) -> None:
    """Display a sentence (Markdown) that is made from the run's own numbers."""
    if in_notebook():
        display(Markdown(text))
    else:
        print(_bare(text))


def quote(text: str) -> None:
    """Display model output, escaped."""
    show_html(f"<blockquote><pre>{html.escape(text)}</pre></blockquote>", text)


def source(thing: Any) -> None:
    """Display the source of a function or class, folded; outside a notebook its name only."""
    from pygments.lexers import PythonLexer

    _code(f"{thing.__module__}.{thing.__qualname__}", inspect.getsource(thing), PythonLexer())


def source_text(name: str, text: str, language: str = "cpp") -> None:
    """Display a source file in another language, folded; outside a notebook its name only."""
    from pygments.lexers import get_lexer_by_name

    _code(name, text, get_lexer_by_name(language))


def _code(name: str, text: str, lexer: Any) -> None:
    from pygments import highlight
    from pygments.formatters import HtmlFormatter

    code = highlight(text, lexer, HtmlFormatter(nowrap=True))
    show_html(
        f'<details class="source"><summary>source of <code>{html.escape(name)}</code></summary>'
        f'<div class="highlight"><pre>{code}</pre></div></details>',
        f"[source of {name}]",
    )


def finding_row(finding: Finding) -> dict[str, object]:
    """A finding as a row of a table; the share of the bare read leads, the limit stands beside."""
    fraction, effect = finding.fraction_of_limit, finding.smallest_effect
    return {
        "variant": finding.variant,
        "against": finding.baseline,
        "phase": words.phase(finding.phase),
        "of the bare read": words.share(finding) or "–",
        "of its limit": "–" if fraction is None else words.percent(fraction),
        "limit": words.band(finding) or "–",
        "metric": words.metric(finding.metric),
        "measured": words.amount(finding.value, finding.unit),
        "speedup": words.interval(finding),
        "verdict": finding.verdict,
        "could have seen": "–" if effect is None else words.effect(effect),
    }


def show_findings(findings: Sequence[Finding]) -> None:
    """Display findings as one table, and say how to read its columns."""
    table([finding_row(finding) for finding in findings], caption="Findings")
    if findings:
        say(words.how_to_read(findings))
