"""Questions with one right answer, so that a share of right answers can be told for any engine.

`short` makes as many as wanted, easy enough that a small model answers some of them right: sums,
and a value to be found in a few lines. Each begins with examples, and the model continues it.
`of_tasks` takes the tasks of tasks.py whose answer can be checked: word problems and
extraction to JSON, which small models mostly fail. Code is left out: to check it, it must be run,
and what a model writes is not run here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labkit.workload.tasks import Task, tasks

SHORT = ("sum", "lookup")
_SHORT_TOKENS, _LONG_TOKENS = 6, 320
_NUMBER = re.compile(r"\d+(?::\d\d)?(?:\.\d+)?")
_NAMES = ("Anna", "Boris", "Chloe", "David", "Elena", "Felix", "Greta", "Hugo", "Irene", "Jonas")


@dataclass(frozen=True)
class Question:
    """A prompt and how its answer is checked.

    kind: "sum" or "lookup" (the first number of the answer is the expected one), "arithmetic" (its
    last numbers are the expected ones, in any order) or "extraction" (it has JSON in whose fields
    all that is expected stands).
    """

    name: str
    kind: str
    prompt: str
    expected: tuple[str, ...]

    @property
    def new_tokens(self) -> int:
        """As many tokens as an answer may have."""
        return _SHORT_TOKENS if self.kind in SHORT else _LONG_TOKENS

    def ids(self, tokenizer: Any) -> list[int]:
        """Token ids: bare text to be continued, or a task in the model's own chat template."""
        if self.kind in SHORT:
            return list(tokenizer.encode(self.prompt, add_special_tokens=False))
        return Task(self.name, self.kind, self.prompt).ids(tokenizer)

    def is_right(self, answer: str) -> bool:
        """Whether an answer is right; as `kind` says, and strictly."""
        numbers = _NUMBER.findall(answer.replace(",", ""))
        if self.kind in SHORT:
            return numbers[:1] == [*self.expected]
        if self.kind == "arithmetic":
            return sorted(numbers[-len(self.expected) :]) == sorted(self.expected)
        return all(_stands_in(value, _json_of(answer)) for value in self.expected)


def _json_of(answer: str) -> Any:
    """The first JSON list or object of an answer; None where it has none."""
    for found in re.finditer(r"[\[{]", answer):
        try:
            return json.JSONDecoder().raw_decode(answer[found.start() :])[0]
        except ValueError:
            continue
    return None


def _stands_in(value: str, data: Any) -> bool:
    """Whether a value stands in a field of the data, as whole words; capitals do not count."""
    if isinstance(data, dict):
        return any(_stands_in(value, one) for one in data.values())
    if isinstance(data, list):
        return any(_stands_in(value, one) for one in data)
    if isinstance(data, float):  # 38.50 is 38.5
        return bool(_NUMBER.fullmatch(value)) and ":" not in value and float(value) == data
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", str(data), re.IGNORECASE) is not None


def _sum(number: int, random: np.random.Generator) -> Question:
    pairs = [(int(one), int(other)) for one, other in random.integers(2, 15, size=(5, 2))]
    *lines, last = [f"{one} + {other} = {one + other}" for one, other in pairs]
    asked, _, answer = last.rpartition(" ")
    return Question(f"sum_{number}", "sum", "\n".join([*lines, asked]), (answer,))


def _lookup(number: int, random: np.random.Generator) -> Question:
    names = random.permutation(_NAMES)[:6]
    rooms = [str(n) for n in random.choice(np.arange(100, 1000), size=6, replace=False)]
    known = [f"{name} works in room {room}." for name, room in zip(names, rooms, strict=True)]
    wanted = int(random.integers(1, 6))  # the first is the example
    example = f"Where does {names[0]} work? In room {rooms[0]}."
    asked = f"Where does {names[wanted]} work? In room"
    prompt = "\n".join([*known, "", example, asked])
    return Question(f"lookup_{number}", "lookup", prompt, (rooms[wanted],))


def short(count: int = 50, seed: int = 0) -> tuple[Question, ...]:
    """`count` sums and `count` lookups, the same ones for the same seed."""
    made = {"sum": _sum, "lookup": _lookup}
    return tuple(
        made[kind](number, np.random.default_rng([seed, place, number]))
        for place, kind in enumerate(SHORT)
        for number in range(count)
    )


def of_tasks(
    kinds: Sequence[str] = ("arithmetic", "extraction"), held_out: bool | None = None
) -> tuple[Question, ...]:
    """The tasks of these kinds whose answers can be checked, as questions."""
    return tuple(
        Question(task.name, task.kind, task.prompt, task.expected)
        for task in tasks(kinds, held_out)
        if task.expected
    )
