"""How many distinct answers an engine gives to one prompt, depending on what shares its passes.

A greedy answer is one sequence of tokens. Where an engine computes a row in another order beside
other rows, the logits differ by rounding, and where two tokens are nearly as likely, the answer
differs from there on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labkit.bench.wave import Wave

Tokens = tuple[int, ...]
AskMany = Callable[[Sequence[Sequence[int]], int], Wave]  # (prompts, new tokens)


@dataclass(frozen=True)
class Answers:
    """What one engine answered to some prompts.

    alone: to each prompt with nothing beside it. together: to each prompt, all answers that it gave
    beside others.
    """

    alone: tuple[Tokens, ...]
    together: tuple[tuple[Tokens, ...], ...]

    @property
    def distinct(self) -> list[int]:
        """For each prompt, how many different answers it got."""
        pairs = zip(self.alone, self.together, strict=True)
        return [len({one, *others}) for one, others in pairs]

    @property
    def differences(self) -> list[int]:
        """For each answer beside others that is not the one alone, the first token that differs."""
        pairs = zip(self.alone, self.together, strict=True)
        return [
            next(n for n, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
            for one, others in pairs
            for other in others
            if other != one
        ]

    def row(self) -> dict[str, object]:
        """As a row of a table."""
        distinct, asked = self.distinct, sum(map(len, self.together))
        return {
            "prompts": len(self.alone),
            "distinct answers, at most": max(distinct),
            "on average": f"{sum(distinct) / len(distinct):.2f}",
            "prompts with one answer": f"{distinct.count(1)} of {len(distinct)}",
            "beside others as alone": f"{asked - len(self.differences)} of {asked}",
            "first difference": f"token {min(self.differences) + 1}" if self.differences else "–",
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"alone": self.alone, "together": self.together, "distinct": self.distinct}


def companies(prompts: int, streams: Sequence[int]) -> list[list[int]]:
    """Which prompts are asked together, for each number of streams above 1.

    Each of the `prompts` once, in another place and beside others at each number; numbers from
    `prompts` on fill up what is left of the last group. Then one prompt in all streams at once.
    """
    found: list[list[int]] = []
    for turn, size in enumerate(size for size in streams if size > 1):
        order = [(number + turn) % prompts for number in range(prompts)]
        groups = [order[start : start + size] for start in range(0, prompts, size)]
        found += [[*group, *range(prompts, prompts + size - len(group))] for group in groups]
        found.append([turn % prompts] * size)
    return found


def answers_of(
    ask: AskMany,
    prompt: Callable[[int], Sequence[int]],
    prompts: int,
    new_tokens: int,
    streams: Sequence[int],
) -> Answers:
    """Ask an engine each of some prompts alone, then in all `companies`.

    prompt: the prompt with a number, always the same one.
    """

    def answered(numbers: Sequence[int]) -> list[Tokens]:
        found = ask([prompt(number) for number in numbers], new_tokens)
        return [one.tokens for one in found.each]

    alone = tuple(answered([number])[0] for number in range(prompts))
    together: list[list[Tokens]] = [[] for _ in range(prompts)]
    for numbers in companies(prompts, streams):
        for number, tokens in zip(numbers, answered(numbers), strict=True):
            if number < prompts:
                together[number].append(tokens)
    return Answers(alone, tuple(map(tuple, together)))


def table_rows(found: Mapping[str, Answers]) -> list[dict[str, object]]:
    """A row an engine."""
    return [{"engine": name} | answers.row() for name, answers in found.items()]
