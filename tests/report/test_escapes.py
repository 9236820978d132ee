"""What a terminal would take as a command is on no page: links of OSC 8, colours, controls."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from labkit.report.pages.html import plain, render_notebook, render_output

LINK = "\x1b]8;;https://example.org/\x1b\\a link\x1b]8;;\x1b\\"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (LINK, "a link"),
        ("\x1b]8;id=7;https://example.org/\x07a link\x1b]8;;\x07 and more", "a link and more"),
        ("\x1b]0;a title\x07text", "text"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b[38:2::255:0:0mred\x1b[m", "red"),
        ("\x1b[?25lhidden\x1b[?25h", "hidden"),
        ("\x1b(Btext\x1b=\x1b7\x1b8\x1bM", "text"),
        ("\x1bP1$r0m\x1b\\text", "text"),
        ("\x1b]8;;https://cut.off\nthe next line", "\nthe next line"),
        ("cut off \x1b[3", "cut off "),
        ("cut off \x1b", "cut off "),
        ("a\x00b\x07c\x08d\x7fe\x9bf", "abcdef"),
        ("tab\tand\r\nlines", "tab\tand\r\nlines"),
        ("[8;;not an escape]", "[8;;not an escape]"),
    ],
)
def test_only_the_text_is_left(text: str, left: str) -> None:
    assert plain(text) == left


@pytest.mark.parametrize(
    "output",
    [
        {"output_type": "stream", "name": "stdout", "text": LINK},
        {"output_type": "stream", "name": "stderr", "text": [LINK, "\x00"]},
        {"output_type": "error", "ename": "E", "evalue": LINK, "traceback": [LINK]},
        {"output_type": "display_data", "data": {"text/plain": LINK}, "metadata": {}},
        {"output_type": "display_data", "data": {"text/html": LINK}, "metadata": {}},
        {"output_type": "display_data", "data": {"text/markdown": LINK}, "metadata": {}},
    ],
)
def test_no_output_has_a_control_character(output: dict[str, object], tmp_path: Path) -> None:
    assert "a link" in render_output(output)
    cell = nbformat.v4.new_code_cell("x", outputs=[nbformat.from_dict(output)])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "in.ipynb")
    render_notebook(tmp_path / "in.ipynb", tmp_path / "out.html", title="t", run_name="r")
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", page) is None
    assert "example.org" not in page
