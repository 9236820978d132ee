"""Real text to calibrate on and to judge answers by: prose and code that ship with Python.

Prose is this project's own and the help topics of `pydoc`; code is modules of the standard
library. A paragraph that several topics share is taken once, and calibration and evaluation are
apart by construction: a method is never judged on what it was fitted to. The texts are those of
the running Python, so another version of it may hold slightly others.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from labkit.errors import LabkitError, ParameterError
from labkit.workload.prompts import Tokenizer, paragraphs

PURPOSES = ("calibration", "evaluation")
PARTS = ("prose", "code")
# Pure Python in every release we run on; none of one list imports its text from the other.
MODULES = {
    "calibration": ("textwrap", "csv", "configparser", "fractions", "zipfile", "sched"),
    "evaluation": ("statistics", "heapq", "shutil", "calendar", "difflib", "string"),
}
_TOPICS = "pydoc_data.topics"
_FITTED = 0.4  # the share of the help topics that is for calibration


class TextError(LabkitError):
    """Text that should have come with Python, or more of it than there is."""


def _module_file(name: str) -> Path:
    """Where the source of a module of the standard library lies; found, never run."""
    spec = importlib.util.find_spec(name)
    path = Path(spec.origin) if spec and spec.origin else None
    if path is None or path.suffix != ".py" or not path.is_file():
        raise TextError(
            f"the text of {name} did not come with this Python. Use one that has its standard "
            "library as source files (python.org, pyenv, conda, or a distribution's full python3)."
        )
    return path


def _topics() -> dict[str, str]:
    """The help topics of pydoc, by name."""
    _module_file(_TOPICS)
    from pydoc_data.topics import topics

    return topics


@cache
def help_paragraphs() -> tuple[str, ...]:
    """Every paragraph of the help topics once, in the topics' order.

    Some topics hold a whole chapter whose sections are topics as well; paragraphs are told apart
    by their words, however they are broken into lines.
    """
    found: dict[str, str] = {}
    for _, topic in sorted(_topics().items()):
        for paragraph in topic.split("\n\n"):
            found.setdefault(" ".join(paragraph.split()), paragraph.strip("\n"))
    found.pop("", None)
    return tuple(found.values())


def text(part: str, purpose: str) -> str:
    """All there is of prose or code for calibration or for evaluation."""
    for given, allowed in ((part, PARTS), (purpose, PURPOSES)):
        if given not in allowed:
            raise ParameterError(f"{given!r} is no kind of text; allowed: {', '.join(allowed)}.")
    if part == "code":
        files = (_module_file(name) for name in MODULES[purpose])
        return "\n\n".join(file.read_text(encoding="utf-8") for file in files)
    every = help_paragraphs()
    middle = int(_FITTED * len(every))
    if purpose == "calibration":
        return "\n\n".join(every[:middle])
    return "\n\n".join((*paragraphs(), *every[middle:]))


@cache
def _ids(tokenizer: Tokenizer, part: str, purpose: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text(part, purpose), add_special_tokens=False))


def _pieces(tokenizer: Tokenizer, part: str, purpose: str, length: int) -> Iterator[list[int]]:
    ids = _ids(tokenizer, part, purpose)
    starts = range(0, len(ids) - length + 1, length)
    return (list(ids[start : start + length]) for start in starts)


def pieces(tokenizer: Tokenizer, purpose: str, tokens: int, length: int = 512) -> list[list[int]]:
    """At least `tokens` token ids in pieces of `length`, prose and code in turns.

    The same pieces every time, none overlapping another; those of "calibration" share no text
    with those of "evaluation". Raises TextError when there is not as much or Python's own text
    is missing, ParameterError for an unknown purpose or a length or count below one.
    """
    if tokens < 1 or length < 1:
        raise ParameterError(f"tokens and length must be at least 1; got {tokens} and {length}.")
    count = -(-tokens // length)
    streams = [_pieces(tokenizer, part, purpose, length) for part in PARTS]
    found = [next(streams[k % len(streams)], None) for k in range(count)]
    taken = [piece for piece in found if piece is not None]
    if len(taken) < count:
        raise TextError(
            f"{count} pieces of {length} tokens for {purpose} were asked for; there are "
            f"{len(taken)}. Ask for fewer tokens or shorter pieces."
        )
    return taken
