"""The last measurement of notebook 06: how often a semantic cache would answer wrongly.

A semantic cache gives a question the answer of the nearest question that was asked before, where
both are near enough (GPTCache, Bang, NLP-OSS 2023). It saves time, and nothing says that the answer
fits. So it is no feature of the engine: here its wrong answers are counted. Beside each question in
the cache three others are asked: the same in other words, one that differs in a name or a number,
and one that has nothing to do with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from labkit.engine.generate import generate
from labkit.model.forward import Traced, offers
from labkit.model.rows import Rows
from labkit.studies.lab import Lab
from labkit.studies.speculative_target import Target
from labkit.workload.questions import Question, short

STREAMS, OVERLAP = "mean residual stream", "shared tokens"
REWORDED, OTHER, NEW = "same question, other words", "another name or number", "another question"
KINDS = (REWORDED, OTHER, NEW)
_LEVEL = 0.95
Similarity = np.ndarray  # (asked, cached), 1 for the same


class Near(NamedTuple):
    """A question that is asked: which of KINDS, beside which cached one, and its text."""

    kind: str
    of: int
    text: str


def reworded(question: Question) -> str:
    """The same question in other words: the order of a sum, or another way to ask for a room."""
    *before, last = question.prompt.split("\n")
    if question.kind == "sum":
        one, _, other, _ = last.split()
        return "\n".join([*before, f"{other} + {one} ="])
    name = last.split()[2]
    return "\n".join([*before, f"In which room does {name} work? In room"])


def other(question: Question) -> str:
    """Another question, which differs in a number or a name."""
    *before, last = question.prompt.split("\n")
    if question.kind == "sum":
        one, _, second, _ = last.split()
        return "\n".join([*before, f"{one} + {int(second) + 1} ="])
    asked = last.split()[2]
    names = [line.split()[0] for line in before if " works in room " in line]
    instead = next(name for name in names[1:] if name != asked)  # the first is the example
    return "\n".join([*before, f"Where does {instead} work? In room"])


def value_of(question: Question, answer: str) -> str:
    """What an answer says: its first number; empty where it has none."""
    digits = "".join(char if char.isdigit() else " " for char in answer).split()
    return digits[0] if digits else ""


class Cell(NamedTuple):
    """At one threshold: how many questions of each kind were asked and answered from the cache,
    and how many of all answers from the cache say another value than the model's own."""

    asked: Mapping[str, int]
    answered: Mapping[str, int]
    wrong: int

    @property
    def hits(self) -> int:
        return sum(self.answered.values())

    @property
    def wrong_rate(self) -> tuple[float, float, float] | None:
        """Wrong answers over all from the cache, with the exact 95 % interval of Clopper and
        Pearson; None where the cache answered nothing."""
        if not self.hits:
            return None
        found = stats.binomtest(self.wrong, self.hits).proportion_ci(_LEVEL, method="exact")
        return self.wrong / self.hits, float(found.low), float(found.high)


@dataclass
class NearQuestions:
    """Questions to which the nearest cached one's answer is given. count: of each kind of SHORT."""

    lab: Lab
    target: Target
    count: int

    @cached_property
    def cached(self) -> tuple[Question, ...]:
        """Those whose answers are in the cache."""
        return short(self.count, seed=6)

    @cached_property
    def asked(self) -> list[Near]:
        """Those that are asked: two changes of each cached one, and as many that are no change."""
        found: list[Near] = []
        pairs = zip(self.cached, short(self.count, seed=7), strict=True)
        for place, (question, new) in enumerate(pairs):
            found += [
                Near(REWORDED, place, reworded(question)),
                Near(OTHER, place, other(question)),
                Near(NEW, place, new.prompt),
            ]
        return found

    @cached_property
    def answers(self) -> dict[str, str]:
        """The model's own greedy answer to each text."""
        return {text: self._answer(text) for text in self._texts}

    @property
    def _texts(self) -> list[str]:
        every = [*(one.prompt for one in self.cached), *(one.text for one in self.asked)]
        return list(dict.fromkeys(every))

    def _ids(self, text: str) -> list[int]:
        return list(self.lab.loaded.tokenizer.encode(text, add_special_tokens=False))

    def _answer(self, text: str) -> str:
        tokens = list(generate(self.target.decoder, self._ids(text), self.cached[0].new_tokens))
        return str(self.lab.loaded.tokenizer.decode(tokens))

    @cached_property
    def similarities(self) -> dict[str, Similarity]:
        """Of each asked question with each cached one, by both ways of comparing."""
        return {STREAMS: self._by_streams(), OVERLAP: self._by_overlap()}

    def _by_streams(self) -> Similarity:
        """The cosine of mean residual streams, the mean over all cached questions taken off."""
        cached = np.stack([self._stream(one.prompt) for one in self.cached])
        asked = np.stack([self._stream(one.text) for one in self.asked])
        middle = cached.mean(axis=0)
        found: Similarity = _unit(asked - middle) @ _unit(cached - middle).T
        return found

    def _stream(self, text: str) -> np.ndarray:
        traced, ids = offers(self.target.decoder, Traced), self._ids(text)
        assert traced is not None
        _, streams = traced.traced(Rows.prefill(ids), traced.new_cache(1, len(ids)))
        found: np.ndarray = streams.float().mean(dim=0).cpu().numpy()
        return found

    def _by_overlap(self) -> Similarity:
        """Tokens that both have over tokens that either has (Jaccard)."""
        cached = [set(self._ids(one.prompt)) for one in self.cached]
        asked = [set(self._ids(one.text)) for one in self.asked]
        return np.array([[len(a & c) / len(a | c) for c in cached] for a in asked])

    def by_kind(self) -> dict[str, dict[str, list[float]]]:
        """By way to compare and kind of question: the similarity to the nearest cached one."""
        return {
            way: {
                kind: [
                    float(row.max())
                    for row, one in zip(found, self.asked, strict=True)
                    if one.kind == kind
                ]
                for kind in KINDS
            }
            for way, found in self.similarities.items()
        }

    def at(self, way: str, threshold: float) -> Cell:
        """What a cache does that answers from this similarity on."""
        found = self.similarities[way]
        nearest = found.argmax(axis=1)
        answered, wrong = dict.fromkeys(KINDS, 0), 0
        for place, one in enumerate(self.asked):
            if found[place, nearest[place]] >= threshold:
                answered[one.kind] += 1
                wrong += self._differs(one, self.cached[nearest[place]])
        asked = {kind: sum(one.kind == kind for one in self.asked) for kind in answered}
        return Cell(asked, answered, wrong)

    def _differs(self, one: Near, given: Question) -> bool:
        own, theirs = self.answers[one.text], self.answers[given.prompt]
        return value_of(given, own) != value_of(given, theirs)

    def samples(self) -> dict[str, Any]:
        """All that was asked, and what the nearest one was, for the traces of a run."""
        return {
            "cached": [one.prompt for one in self.cached],
            "asked": [one._asdict() for one in self.asked],
            "answers": self.answers,
            "nearest": {way: found.argmax(1).tolist() for way, found in self.similarities.items()},
            "similarity": {way: found.max(1).tolist() for way, found in self.similarities.items()},
        }

    def own_right(self) -> tuple[int, int]:
        """How many of the cached questions the model itself answers right, and of how many."""
        right = sum(one.is_right(self.answers[one.prompt]) for one in self.cached)
        return right, len(self.cached)


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; what has no length stays 0."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
