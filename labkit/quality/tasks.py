"""The share of questions that a model answers right, with its interval.

Perplexity says how well a model predicts text; this says what it can still do. Answers are greedy,
and come from anything that turns prompt ids into token ids: a decoder here, or an engine in another
process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm

from labkit.engine.generate import generate
from labkit.model.forward import Forward
from labkit.workload.questions import Question, short

# (ids of a prompt, how many new tokens) -> the ids of the answer
Ask = Callable[[Sequence[int], int], Sequence[int]]
_Z = 1.959964  # of a 95 % interval


@dataclass(frozen=True)
class Score:
    """How many of the questions were answered right."""

    right: int
    asked: int

    @property
    def share(self) -> float:
        return self.right / self.asked

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the share (Wilson 1927): right for few questions and near 0 and 1."""
        n, p = self.asked, self.share
        middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
        return max(0.0, middle - half), min(1.0, middle + half)

    def quality(self) -> dict[str, float]:
        """As part of the `quality` of a finding."""
        low, high = self.interval
        return {
            "task_score": self.share,
            "task_score_low": low,
            "task_score_high": high,
            "questions": self.asked,
        }

    def told(self) -> dict[str, float]:
        """As numbers: `right`, `asked`, `score`, `score_low` and `score_high`."""
        low, high = self.interval
        shares = {"score": self.share, "score_low": low, "score_high": high}
        return {"right": self.right, "asked": self.asked, **shares}


def asking(decoder: Forward) -> Ask:
    """A decoder of this process, as `score` asks it."""
    return lambda prompt, new_tokens: list(generate(decoder, prompt, new_tokens))


def answer_of(tokens: Sequence[int], tokenizer: Any) -> str:
    """The text of an answer, up to where the model ends it: engines run on after that."""
    end = getattr(tokenizer, "eos_token_id", None)
    kept = tokens[: tokens.index(end)] if end in tokens else tokens
    return str(tokenizer.decode(list(kept)))


def score(
    ask: Ask, tokenizer: Any, questions: Iterable[Question] | None = None, label: str = "questions"
) -> dict[str, Score]:
    """Ask every question, by default those of `short()`: the score of each kind, and of "all".

    Raises ValueError where there is no question.
    """
    asked = short() if questions is None else tuple(questions)
    if not asked:
        raise ValueError("no questions were given; a score needs at least one.")
    right: dict[str, list[bool]] = {}
    for question in tqdm(asked, desc=label, leave=False):
        tokens = list(ask(question.ids(tokenizer), question.new_tokens))
        found = question.is_right(answer_of(tokens, tokenizer))
        right.setdefault(question.kind, []).append(found)
    every = [found for kind in right.values() for found in kind]
    return {kind: Score(sum(found), len(found)) for kind, found in [*right.items(), ("all", every)]}
