"""`labkit try`: an answer in the terminal as it comes, and its figures below it."""

from __future__ import annotations

import contextlib
import sys
import unicodedata

from labkit.base.command import remark, show
from labkit.errors import ParameterError
from labkit.fast.session import fastest
from labkit.fast.stream import Stream
from labkit.workload.prompts import check_text

FROM_STDIN = "-"
_INTERRUPTED = 130


def try_prompt(
    prompt: str,
    model: str = "",
    device: str = "auto",
    max_tokens: int = 256,
    threads: int | None = None,
    drafts: bool = True,
    raw: bool = False,
    measure: bool = False,
) -> int:
    """Show the answer to a prompt, and one line of figures on stderr; returns the exit code.

    prompt: "-" reads it from stdin. raw: without the chat template. Ctrl-C leaves what was shown,
    tells the figures so far, and gives 130. Raises as `fastest` and `Fastest.stream` do.
    """
    text = _of_stdin() if prompt == FROM_STDIN else prompt
    check_text(text)  # before a model is loaded for nothing
    with contextlib.redirect_stdout(sys.stderr):  # stdout is for the answer alone
        fast = fastest(
            model or None, device=device, threads=threads, drafts=drafts, measure=measure,
            tell=remark,
        )  # fmt: skip
        answer = fast.stream(text, max_tokens, chat=False if raw else None)
    code = _streamed(answer)
    remark(f"{'interrupted after ' if code else ''}{answer.result.line}")
    return code


def _streamed(answer: Stream) -> int:
    """Show the pieces of an answer; 130 where Ctrl-C ended it."""
    terminal, last, code = sys.stdout.isatty(), "\n", 0
    try:
        for piece in answer:
            show(for_terminal(piece) if terminal else piece, newline=False)
            last = piece[-1]
    except KeyboardInterrupt:
        code = _INTERRUPTED
    finally:
        answer.close()
    if last != "\n" or code:
        show("")
    return code


def _of_stdin() -> str:
    """All of stdin, without the end of its last line."""
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ParameterError(
            f"the prompt on stdin is no UTF-8 (byte {error.start}): give it as UTF-8."
        ) from None
    return text.removesuffix("\n").removesuffix("\r")


def for_terminal(text: str) -> str:
    """Text without what could move a terminal's cursor or change its colours: control characters
    are shown as Python writes them. Ends of lines and tabs stay."""
    return "".join(
        repr(one)[1:-1] if unicodedata.category(one) == "Cc" and one not in "\n\t" else one
        for one in text
    )
