"""An executed notebook as one HTML file that opens anywhere: it fetches nothing and runs no script.

Raw HTML in Markdown is escaped. HTML outputs of labkit.report.told.plots are used as they are; any
other HTML output is shown as text.
"""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jinja2
import mistune
import nbformat
from latex2mathml.converter import convert as to_mathml
from markupsafe import Markup
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from labkit.base.paths import atomic_write
from labkit.report.pages.links import Link, quoted
from labkit.report.told import answer, matters, plots, words
from labkit.report.told.finding import Finding

# What a terminal takes as a command: CSI (colours, the cursor); strings up to BEL or ST, in a line
# (OSC 8 is a link, as pip and rich print it); the short ones. What was cut off has no end.
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]?|\x1b[]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]?"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # all but tab and line ends
_PROGRESS = re.compile(r"\d+%\||\bit/s\b|s/it\b|\?it|/s\]\s*$")
_CODE_OR_MATH = re.compile(
    r"(```.*?```|`[^`\n]*`)|(?<!\\)\$\$(.+?)\$\$|(?<!\\)\$([^\s$](?:[^$\n]*[^\s$\\])?)\$", re.S
)
_MATHML = "{http://www.w3.org/1998/Math/MathML}"
_MATH_TAG = re.compile(_MATHML + r"m[a-z]+")
# Attributes of a formula that could run something, link or change the page's style.
_ACTIVE = re.compile(r"on\w+|.*href|src|style|class|id", re.IGNORECASE)
_MOST = 20_000  # characters of one text output, so that a page stays small enough to send


@cache
def templates() -> jinja2.Environment:
    """The templates of every page, with escaping on."""
    loader = jinja2.PackageLoader("labkit.report.pages", "templates")
    made = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    filters = (
        words.times, words.amount, words.phase, words.answers, words.effect, words.percent,
        words.metric, words.share_interval, words.held_against, words.band,
        breakable, inline, answer.rate, matters.verdicts,
    )  # fmt: skip
    made.filters |= {function.__name__: function for function in filters}
    made.filters["urlencode"] = quoted
    return made


def breakable(name: str) -> Markup:
    """A name, escaped, with places where a narrow cell may break it: transformers:|bf16."""
    return Markup(re.sub(r"(?<=\w)([:/_])(?=\w)", r"\1<wbr>", html.escape(name)))


def inline(text: str) -> Markup:
    """A sentence, escaped, in which what stands in backticks is code."""
    return Markup(plots.inline(text))


def math(tex: str, display: str) -> str:
    """TeX as MathML; TeX that cannot be parsed as code. display: inline or block."""
    try:
        made = _only_math(to_mathml(tex.strip(), display=display))
        return made if display == "inline" else f'<span class="formula">{made}</span>'
    except Exception:  # the converter raises many kinds; a bad formula must not stop the page
        return f"<code>{html.escape(tex)}</code>"


def _only_math(markup: str) -> str:
    """The converter's output if it holds MathML only: it does not escape the text of \\text{}."""
    root = ElementTree.fromstring(re.sub(r"&(?!#?\w+;)", "&amp;", markup))
    for element in root.iter():
        active = any(_ACTIVE.fullmatch(name) for name in element.attrib)
        if active or not _MATH_TAG.fullmatch(element.tag):
            raise ValueError(f"{element.tag} is not MathML")
        element.tag = element.tag.removeprefix(_MATHML)
    return ElementTree.tostring(root, encoding="unicode")


def markdown(text: str) -> str:
    """Markdown with formulas in dollars, as HTML; raw HTML in it is escaped."""
    formulas: list[str] = []

    def keep(match: re.Match[str]) -> str:
        if match[1] is not None:
            return match[0]
        tex = match[2] if match[2] is not None else match[3]
        formulas.append(math(tex, "block" if match[2] is not None else "inline"))
        return f"\ue000{len(formulas) - 1}\ue001"

    marked = _CODE_OR_MATH.sub(keep, text)
    page = str(mistune.create_markdown(escape=True, plugins=["table", "strikethrough"])(marked))
    page = page.replace("<table>", '<div class="table"><table>')
    page = page.replace("</table>", "</table></div>")
    # Raw HTML is escaped, so these tags are the renderer's: a page has one h1 and fetches nothing.
    page = re.sub(r"(</?)h1>", r"\1h2>", page)
    page = re.sub(r'<img src="(?!data:image/)[^"]*" alt="([^"]*)"[^>]*>', r"\1", page)
    return re.sub("\ue000(\\d+)\ue001", lambda m: formulas[int(m[1])], page)


def code(source: str) -> str:
    """Highlighted Python."""
    return str(highlight(source, PythonLexer(), HtmlFormatter(nowrap=True)))


def plain(text: str) -> str:
    """Text without the escape sequences of terminals and other control characters."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text))


def _without_progress(text: str) -> str:
    lines = re.split(r"[\r\n]+", text)
    return "\n".join(line for line in lines if line.strip() and not _PROGRESS.search(line))


def _pre(text: str, kind: str = "") -> str:
    """Escaped text; a text that is too long loses its middle, and a note says so."""
    if len(text) > _MOST:
        gone = f"\n\n… {len(text) - _MOST:,} characters left out …\n\n"
        text = text[: _MOST // 2] + gone + text[-_MOST // 2 :]
    shade = f' class="{kind}"' if kind else ""
    return f"<pre{shade}>{html.escape(text)}</pre>"


def _joined(value: Any) -> str:
    return "".join(value) if isinstance(value, list) else str(value)


def _data(output: Mapping[str, Any]) -> str:
    data = output["data"]
    if "application/vnd.jupyter.widget-view+json" in data:
        return ""
    ours = output.get("metadata", {}).get("text/html", {}).get("labkit", False)
    if ours and "text/html" in data:
        return _joined(data["text/html"])
    if "text/markdown" in data:
        return markdown(plain(_joined(data["text/markdown"])))
    if "image/png" in data:
        picture = html.escape(_joined(data["image/png"]).strip(), quote=True)
        return f'<img alt="output of this cell" src="data:image/png;base64,{picture}">'
    return _pre(plain(_joined(data.get("text/plain", data.get("text/html", "")))))


def render_output(output: Mapping[str, Any]) -> str:
    """One output of a cell as HTML; empty for progress bars and widgets."""
    kind = output["output_type"]
    if kind == "stream":
        text = plain(_joined(output["text"]))
        text = _without_progress(text) if output["name"] == "stderr" else text
        return _pre(text, output["name"]) if text.strip() else ""
    if kind == "error":
        return _pre(plain("\n".join(output["traceback"])), "error")
    return _data(output)


def assignments(source: str) -> dict[str, str]:
    """The assignments of a parameters cell: names and values as source text."""
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return {}
    found: dict[str, str] = {}
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.unparse(node.value)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            found[node.target.id] = ast.unparse(node.value)
    return found


def _hint(source: str) -> str:
    first = next((line for line in source.splitlines() if line.strip()), "")
    return first[:60] + ("…" if len(first) > 60 else "")


def _code_cell(cell: Any, number: int) -> dict[str, Any]:
    outputs = cell.get("outputs", [])
    return {
        "kind": "code",
        "number": number,
        "code": code(cell.source),
        "hint": _hint(cell.source),
        "outputs": [text for output in outputs if (text := render_output(output))],
        "failed": any(output["output_type"] == "error" for output in outputs),
    }


def _cells(notebook: Any) -> Iterator[dict[str, Any]]:
    """The cells for the template; the parameters become one cell of their own."""
    parameters: dict[str, str] = {}
    number = 0
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        number += cell.cell_type == "code"
        if "parameters" in tags or "injected-parameters" in tags:
            parameters |= assignments(cell.source)
            continue
        if parameters:
            yield {"kind": "parameters", "parameters": parameters}
            parameters = {}
        if cell.cell_type == "markdown":
            yield {"kind": "markdown", "html": markdown(cell.source)}
        elif cell.cell_type == "code" and cell.source.strip():
            yield _code_cell(cell, number)


def _read(executed: Path) -> Any:
    """A notebook without papermill's error marks and without its title, which the page shows."""
    notebook = nbformat.read(executed, as_version=4)
    mark = "papermill-error-cell-tag"
    notebook.cells = [c for c in notebook.cells if mark not in c.metadata.get("tags", [])]
    if notebook.cells and notebook.cells[0].cell_type == "markdown":
        notebook.cells[0].source = re.sub(r"\A\s*# .*", "", notebook.cells[0].source)
    return notebook


def error_of(notebook: Any) -> str | None:
    """The last line of the error that stopped a notebook, or None."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                return plain(f"{output['ename']}: {output['evalue']}").strip()
    return None


def _lead(findings: Sequence[Finding]) -> str:
    """The sentence that a page opens with: the finding closest to its bare work."""
    best = words.closest(findings)
    return "" if best is None else words.sentence(best)


def render_notebook(
    executed: Path,
    target: Path,
    *,
    title: str,
    run_name: str,
    status: str = "ok",
    error: str | None = None,
    findings: Sequence[Finding] = (),
    neighbours: tuple[str | None, str | None] = (None, None),
    links: Sequence[Link] = (),
    busy: str = "",
) -> None:
    """Write the page of an executed notebook, even if it failed.

    title: of the notebook. status: ok, kept or failed. error: why it failed; by default the error
    in the notebook. neighbours: names of the notebooks before and after it in the run. links: to
    the data of the page. busy: what the machine lost to other work meanwhile, where it did.
    """
    notebook = _read(executed)
    cells = list(_cells(notebook))
    question = cells.pop(0)["html"] if cells and cells[0]["kind"] == "markdown" else ""
    page = templates().get_template("notebook.html.j2").render(
        title=title, run_name=run_name, failed=status == "failed",
        error=error or error_of(notebook), question=question, cells=cells, findings=findings,
        lead=_lead(findings),
        culprit=next((cell for cell in cells if cell.get("failed")), None),
        neighbours=neighbours, links=links, busy=busy, script_hash=None,
    )  # fmt: skip
    atomic_write(target, page)
