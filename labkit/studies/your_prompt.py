"""The cell that answers a prompt of the reader's, for every notebook: `your_prompt.show()`.

In a live session it has widgets for the prompt, the model, threads and tokens. The text comes as
it is made; tokens that a draft had are marked, and the figures stand below. In a run there is
nobody who could ask: then it says in one sentence what it would do.

What answers is taken as `labkit.fastest`, not from its module: a run never calls it, so a change of
it must not repeat every notebook that opens with this cell (labkit/report/runs/reach.py).
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol

import labkit
from labkit.base.device import cores_allowed
from labkit.errors import LabkitError
from labkit.report.told.notebook import live
from labkit.report.told.plots import say

QUESTION = "Explain in three sentences why reading memory limits the speed of a language model."
_EVERY = 0.1  # seconds between two updates of the page
_DEFAULT_TOKENS, _MOST_TOKENS = 128, 2048
Update = Callable[[str], object]  # takes markup
Marked = tuple[str, bool]  # text, and whether a draft had it


class Answer(Protocol):
    """A stream of `labkit.fastest`: pieces of text with `drafted`, and figures with a `line`."""

    def __iter__(self) -> Iterator[Any]: ...

    def close(self) -> None: ...

    @property
    def result(self) -> Any: ...


def show(prompt: str = QUESTION, model: str = "") -> None:
    """Display the cell. model: as `labkit.fastest` takes it; "" for the built-in model."""
    if live():
        Panel(prompt, model).show()
        return
    say(
        "In JupyterLab, this cell answers a prompt of yours with the fastest decoder that this "
        "machine has, and tells its speed against the limit."
    )


def markup(pieces: Iterable[Marked], line: str = "") -> str:
    """An answer so far, escaped, with the text that drafts had marked, and a line below it."""
    runs = (
        (drafted, html.escape("".join(text for text, _ in run)))
        for drafted, run in groupby(pieces, key=itemgetter(1))
    )
    text = "".join(f"<mark>{run}</mark>" if drafted else run for drafted, run in runs)
    return f'<pre style="white-space:pre-wrap">{text}</pre><p>{html.escape(line)}</p>'


def follow(answer: Answer, update: Update, every: float = _EVERY) -> None:
    """Read an answer and update the page as it comes, at most once in `every` seconds.

    Where the kernel is interrupted, what was shown stays, with the figures so far.
    """
    pieces: list[Marked] = []
    last, ended = -every, ""
    try:
        for piece in answer:
            pieces.append((str(piece), piece.drafted))
            if time.monotonic() - last >= every:
                last = time.monotonic()
                update(markup(pieces, answer.result.line))
    except KeyboardInterrupt:
        answer.close()
        ended = "interrupted after "
    update(markup(pieces, f"{ended}{answer.result.line}"))


class Panel:
    """The widgets, and the model that answers: it is loaded again where its settings change."""

    def __init__(self, prompt: str = QUESTION, model: str = "") -> None:
        import ipywidgets as widgets

        wide = widgets.Layout(width="100%")
        self.prompt = widgets.Textarea(prompt, description="prompt", layout=wide, rows=4)
        self.model = widgets.Text(model, description="model", placeholder="the built-in model")
        most = cores_allowed()
        self.threads = widgets.IntSlider(most, 1, most, description="threads")
        self.tokens = widgets.IntSlider(_DEFAULT_TOKENS, 8, _MOST_TOKENS, 8, description="tokens")
        self.drafts = widgets.Checkbox(True, description="drafts")
        self.button = widgets.Button(description="Answer", button_style="primary")
        self.page = widgets.HTML()
        self.button.on_click(lambda _: self.answer())
        self._loaded: tuple[tuple[str, int, bool], Any] | None = None

    def show(self) -> None:
        """Display the widgets."""
        import ipywidgets as widgets
        from IPython.display import display

        settings = widgets.HBox([self.model, self.threads, self.tokens, self.drafts])
        display(widgets.VBox([self.prompt, settings, self.button, self.page]))

    def answer(self) -> None:
        """Answer the prompt; what cannot be done is said in one line."""
        self.button.disabled = True
        try:
            follow(self._fast().stream(self.prompt.value, self.tokens.value), self._update)
        except LabkitError as error:
            self._tell(str(error))
        finally:
            self.button.disabled = False

    def _fast(self) -> Any:
        wanted = self.model.value.strip(), self.threads.value, self.drafts.value
        if self._loaded is None or self._loaded[0] != wanted:
            model, threads, drafts = wanted
            self._loaded = None  # two models may not fit
            found = labkit.fastest(model or None, threads=threads, drafts=drafts, tell=self._tell)
            self._loaded = wanted, found
        return self._loaded[1]

    def _tell(self, line: str) -> None:
        self._update(markup([], line))

    def _update(self, page: str) -> None:
        self.page.value = page
