"""How a command ends: with its result, or with one clear line and an exit code, never a traceback.

Exit codes: 0, 1 where what was asked for ended badly, 2 for a mistake that the user can put right,
130 after Ctrl-C.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import click

from labkit.errors import LabkitError


def clear_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Print an error that the user can put right as one line, and exit with code 2.

    command: returns its exit code; None is 0.
    """

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            _take_any_text()
            code = command(*args, **kwargs)
        except LabkitError as error:
            code = _refuse(str(error))
        except OSError as error:
            code = _refuse(f"{error.filename or 'the system'}: {error.strerror or error}.")
        except MemoryError:
            code = _refuse("memory ran out: take a smaller model or fewer tokens.")
        except KeyboardInterrupt:
            code = _refuse("", 130, "interrupted")
        sys.exit(code or 0)

    return wrapped


def _refuse(message: str, code: int = 2, line: str = "") -> int:
    try:
        click.echo(line or f"error: {_shown(message)}", err=True)
    except OSError:
        _close(sys.stderr)  # nobody reads it: the exit code is all that is left
    return code


def _shown(text: str) -> str:
    """Text without what could move a terminal's cursor; it may have several lines."""
    return "".join(c if c.isprintable() or c in "\n\u00a0" else "\ufffd" for c in text)


def _take_any_text() -> None:
    """Names of files may hold what a terminal's encoding has not: it is shown escaped."""
    if (change := getattr(sys.stdout, "reconfigure", None)) is not None:
        change(errors="backslashreplace")


def _close(stream: Any) -> None:
    """Lead a stream that cannot be written to nowhere, so that Python can flush it at its end."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        return


def show(text: str, newline: bool = True) -> None:
    """Print what a command found, or a piece of it without the end of a line.

    Raises LabkitError where it cannot be printed, as on a full disk. Where the reader has gone, as
    `head` does, the command ends silently with code 1.
    """
    try:
        click.echo(text, nl=newline)
    except BrokenPipeError:
        _close(sys.stdout)
        sys.exit(1)
    except OSError as error:
        _close(sys.stdout)
        raise LabkitError(f"the result could not be printed ({error.strerror}).") from None


def remark(text: str) -> None:
    """Print to stderr what is no part of the result. Where nobody can read it, the command goes
    on."""
    try:
        click.echo(_shown(text), err=True)
    except OSError:
        _close(sys.stderr)


def tell(text: str) -> None:
    """Print how far a long command is. Where nobody can read it, the command goes on."""
    try:
        print(text, flush=True)
    except OSError:
        _close(sys.stdout)
