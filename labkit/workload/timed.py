"""Requests with the times they are due: the one record that engines, servers and peers are asked.

A request is due at a time (open loop), or some seconds after another has ended (closed loop, the
turns of a chat, the stages of a pipeline). Its prompt may take over what the other one left: its
whole context, as in a chat, or its answer only, as in a pipeline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from labkit.errors import ParameterError

Tokens = tuple[int, ...]


class Takes(StrEnum):
    """What a prompt takes over from the request that it follows."""

    NOTHING = "nothing"
    ANSWER = "answer"
    CONTEXT = "context"


@dataclass(frozen=True)
class TimedRequest:
    """One request.

    due: seconds after the start of the workload; for one that follows another, seconds after that
    one's last token. new_tokens: the most tokens of its answer. conversation: requests of one
    conversation have the same number. seed: of its sampling. follows: the number, in the workload,
    of the request that must have ended before. takes, ending: its prompt is `prompt`, what it takes
    over, and `ending`; with the other's context that comes first. Raises ParameterError.
    """

    due: float
    prompt: Tokens
    new_tokens: int
    conversation: int = 0
    seed: int = 0
    follows: int | None = None
    takes: Takes = Takes.NOTHING
    ending: Tokens = ()

    def __post_init__(self) -> None:
        own = (*self.prompt, *self.ending)
        if not 0 <= self.due < math.inf:
            raise ParameterError(f"due at {self.due} s: allowed are seconds from 0 on.")
        if self.new_tokens < 1:
            raise ParameterError(f"{self.new_tokens} new tokens: allowed are 1 and more.")
        if not own or min(own) < 0:
            raise ParameterError(f"a prompt needs tokens, numbered from 0 on: {own[:8]}.")
        if self.follows is None and self.takes is not Takes.NOTHING:
            raise ParameterError(f"a prompt takes over the {self.takes} of no request.")

    @property
    def own_tokens(self) -> int:
        """Tokens of its prompt that it does not take over."""
        return len(self.prompt) + len(self.ending)

    def full_prompt(self, context: Sequence[int] = (), answer: Sequence[int] = ()) -> list[int]:
        """The prompt, given the prompt and the answer of the request it follows.

        answer: without the stop token that ended it; the mark that ends a turn is part of `prompt`.
        """
        if self.takes is Takes.CONTEXT:
            return [*context, *answer, *self.prompt, *self.ending]
        taken = answer if self.takes is Takes.ANSWER else ()
        return [*self.prompt, *taken, *self.ending]


@dataclass(frozen=True)
class TimedWorkload:
    """Requests in the order in which they were made. seed: what they were made from.

    facts: further facts for a finding, as rate and lengths. Raises ParameterError where there is
    no request, where due times go back, or where one follows a later one.
    """

    name: str
    requests: tuple[TimedRequest, ...]
    seed: int = 0
    facts: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.requests:
            raise ParameterError(f"the workload {self.name} has no request.")
        due = 0.0
        for number, request in enumerate(self.requests):
            if request.follows is None:
                if request.due < due:
                    raise ParameterError(
                        f"{self.name}: request {number} is due at {request.due} s, after one that "
                        f"is due at {due} s. Sort the requests by the time they are due."
                    )
                due = request.due
            elif not 0 <= request.follows < number:
                raise ParameterError(
                    f"{self.name}: request {number} follows request {request.follows}; it can "
                    "follow an earlier one only."
                )

    def longest_prompts(self) -> list[int]:
        """Tokens of each prompt at most: where all answers are as long as they may be."""
        found: list[int] = []
        for one in self.requests:
            taken = 0
            if one.follows is not None and one.takes is not Takes.NOTHING:
                before = found[one.follows] if one.takes is Takes.CONTEXT else 0
                taken = before + self.requests[one.follows].new_tokens
            found.append(taken + one.own_tokens)
        return found

    @property
    def longest(self) -> int:
        """Tokens that the longest request can have, prompt and answer: what a cache must hold."""
        return max(
            prompt + one.new_tokens
            for prompt, one in zip(self.longest_prompts(), self.requests, strict=True)
        )

    @property
    def offered_rate(self) -> float | None:
        """Requests a second that are due of themselves; None where that is no rate."""
        due = [one.due for one in self.requests if one.follows is None]
        return (len(due) - 1) / (due[-1] - due[0]) if due[-1] > due[0] else None

    def describe(self) -> dict[str, Any]:
        """As the `workload` of a finding."""
        return {
            "name": self.name,
            "requests": len(self.requests),
            "conversations": len({one.conversation for one in self.requests}),
            "prompt_tokens": sum(self.longest_prompts()),
            "new_tokens": sum(one.new_tokens for one in self.requests),
            "offered_rate": self.offered_rate,
            "seed": self.seed,
            **self.facts,
        }


def common_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens with which all prompts begin."""
    alike = 0
    for column in zip(*prompts, strict=False):
        if len(set(column)) > 1:
            break
        alike += 1
    return alike
