"""The cell that answers a reader's prompt: what it shows, live and in a run."""

from __future__ import annotations

from typing import Any

import pytest

import labkit
from labkit.base.paths import project_root
from labkit.engine.row_costs import free_rows
from labkit.errors import ModelError
from labkit.report.runs.reach import reached
from labkit.studies.your_prompt import Panel, follow, markup, show
from tests.fast.told import Letters, Told, session

ANSWER = [5, 6, 7, 8, 5, 6, 7, 8, 5, 6, 7, 8]
PROMPT = list(range(1, 20))


def test_text_is_escaped_and_drafted_text_marked_once() -> None:
    pieces = [("<b>", False), ("&", True), ("c", True), (" d", False)]
    found = markup(pieces, "3 < 4")
    assert "&lt;b&gt;<mark>&amp;c</mark> d</pre>" in found
    assert "3 &lt; 4" in found


def test_the_page_follows_the_answer() -> None:
    pages: list[str] = []
    fast = session(Told(len(PROMPT), ANSWER, 97), costs=free_rows())
    follow(fast.stream(PROMPT, 12), pages.append, every=0.0)
    assert len(pages) == 13
    assert "<mark>" in pages[-1]
    assert "drafts accepted" in pages[-1]
    text = pages[-1].replace("<mark>", "").replace("</mark>", "")
    assert Letters().decode(ANSWER) in text


def test_few_updates_where_an_answer_is_fast() -> None:
    pages: list[str] = []
    fast = session(Told(len(PROMPT), ANSWER, 97))
    follow(fast.stream(PROMPT, 12), pages.append, every=1e6)
    assert len(pages) == 2  # the first piece, and the end


def test_an_interrupted_kernel_leaves_the_figures() -> None:
    pages: list[str] = []
    decoder = Told(len(PROMPT), ANSWER, 97)
    decoder.breaks = 3, KeyboardInterrupt()
    fast = session(decoder, costs=None)
    follow(fast.stream(PROMPT, 12), pages.append)
    assert "interrupted after 2 tokens" in pages[-1]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `fastest` was asked for."""
    found: list[dict[str, Any]] = []

    def fastest(model: Any, **options: Any) -> Any:
        found.append({"model": model} | options)
        options["tell"]("loading <it>")
        return session(Told(5, ANSWER, 97))

    monkeypatch.setattr(labkit, "fastest", fastest)
    return found


def test_the_panel_answers_and_keeps_its_model(asked: list[dict[str, Any]]) -> None:
    panel = Panel("hello")
    panel.tokens.value = 8
    panel.button.click()
    assert "8 tokens" in panel.page.value
    assert not panel.button.disabled
    panel.answer()
    assert len(asked) == 1
    panel.model.value, panel.drafts.value = "other", False
    panel.answer()
    assert (asked[1]["model"], asked[1]["drafts"]) == ("other", False)


def test_what_cannot_be_answered_is_one_line(asked: list[dict[str, Any]]) -> None:
    panel = Panel("")
    panel.answer()
    assert "the prompt is empty" in panel.page.value
    assert not panel.button.disabled

    def broken(*_: Any, **__: Any) -> Any:
        raise ModelError("no <model>")

    panel = Panel("hello")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(labkit, "fastest", broken)
        panel.answer()
    assert "no &lt;model&gt;" in panel.page.value


def test_the_widgets_are_shown_in_a_live_session_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LABKIT_HEADLESS", raising=False)
    show()
    assert "VBox(" in capsys.readouterr().out
    monkeypatch.setenv("LABKIT_HEADLESS", "1")
    show()
    assert capsys.readouterr().out.startswith("In JupyterLab, this cell answers")


def test_a_notebook_that_opens_with_it_does_not_reach_the_kernel() -> None:
    found = reached("from labkit.studies import your_prompt", project_root() / "labkit")
    folders = {path.relative_to(project_root() / "labkit").parts[0] for path in found}
    assert "studies" in folders
    assert not {"optimize", "fast", "bench"} & folders
