"""Real text to calibrate on and to compare answers on: prose and code that come with Python.

Prose is this project's own text and the help topics of `pydoc`. Code is modules of the standard
library. Calibration and evaluation share no text, so that no method is judged on the text that it
was fitted to. A paragraph that several topics contain is used once. The texts come from the running
Python, and differ slightly between versions.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from labkit.errors import LabkitError, ParameterError
from labkit.workload.prompts import Tokenizer, paragraphs

PURPOSES = ("calibration", "evaluation")
PARTS = ("prose", "code")
# Python source in every release that we support; no module's text is in both lists.
MODULES = {
    "calibration": ("textwrap", "csv", "configparser", "fractions", "zipfile", "sched"),
    "evaluation": ("statistics", "heapq", "shutil", "calendar", "difflib", "string"),
}
_TOPICS = "pydoc_data.topics"
_CALIBRATION_SHARE = 0.4  # of the help topics' paragraphs


class TextError(LabkitError):
    """Text is missing from this Python, or there is less than was asked for."""


def _module_file(name: str) -> Path:
    """The source file of a module of the standard library, which is not imported."""
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
    """Every paragraph of the help topics, once, in the order of the topics.

    Some topics contain a chapter whose sections are topics too. Two paragraphs count as the same if
    they have the same words; line breaks do not matter.
    """
    found: dict[str, str] = {}
    for _, topic in sorted(_topics().items()):
        for paragraph in topic.split("\n\n"):
            found.setdefault(" ".join(paragraph.split()), paragraph.strip("\n"))
    found.pop("", None)
    return tuple(found.values())


def text(part: str, purpose: str) -> str:
    """All prose or all code for calibration or for evaluation; ParameterError for other names."""
    for given, allowed in ((part, PARTS), (purpose, PURPOSES)):
        if given not in allowed:
            raise ParameterError(f"no text for {given!r}; allowed: {', '.join(allowed)}.")
    if part == "code":
        files = (_module_file(name) for name in MODULES[purpose])
        return "\n\n".join(file.read_text(encoding="utf-8") for file in files)
    every = help_paragraphs()
    middle = int(_CALIBRATION_SHARE * len(every))
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
    """At least `tokens` token ids in pieces of `length`, alternately prose and code.

    The pieces are the same every time and do not overlap; those for "calibration" share no text
    with those for "evaluation". Raises TextError where there is too little text or Python came
    without it, ParameterError for an unknown purpose or a length or count below 1.
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


def lengths(tokenizer: Tokenizer, purpose: str) -> dict[str, int]:
    """How many tokens of text there are for a purpose, by part; 0 where Python came without it."""

    def count(part: str) -> int:
        try:
            return len(_ids(tokenizer, part, purpose))
        except TextError:
            return 0

    return {part: count(part) for part in PARTS}


def most_tokens(there: Mapping[str, int], length: int) -> int:
    """The most tokens that `pieces` of a length can be asked for. there: tokens by part."""
    first, second = (there[part] // length for part in PARTS)
    return length * min(2 * first, 2 * second + 1)
