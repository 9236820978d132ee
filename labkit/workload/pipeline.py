"""The reasoning pipeline: translate, plan, solve, verify. Each stage reads what the last one wrote.

The instructions of a stage are the same for every problem, and stand first: a prefix cache computes
them once. They, the problem and the earlier answer make the prompt (task_texts/pipeline.yaml).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from labkit.errors import ParameterError
from labkit.workload.arrivals import Arrivals
from labkit.workload.chat_tokens import around, opening
from labkit.workload.streams import Use, request_seeds, stream
from labkit.workload.tasks import read_texts, tasks
from labkit.workload.timed import Takes, TimedRequest, TimedWorkload, common_prefix


class Stage(NamedTuple):
    """A stage: its instructions, and what it is asked, with {problem} and {answer} in it."""

    name: str
    instructions: str
    ask: str


@cache
def stages() -> tuple[Stage, ...]:
    """The four stages in their order; only the first takes no earlier answer."""
    return tuple(Stage(**entry) for entry in read_texts("pipeline"))


@cache
def problems() -> tuple[str, ...]:
    """The word problems of tasks.py."""
    return tuple(task.prompt for task in tasks(("arithmetic",)))


class _Prompt(NamedTuple):
    """A prompt's tokens before and after the place of the earlier answer, if it has one."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def _prompt(tokenizer: Any, stage: Stage, problem: str) -> _Prompt:
    before, _, after = stage.ask.replace("{problem}", problem).partition("{answer}")
    if "{answer}" not in stage.ask:
        return _Prompt(opening(tokenizer, before, stage.instructions), ())
    first, last = around(tokenizer, before, after, stage.instructions)
    return _Prompt(first, last)


def reasoning_pipeline(
    tokenizer: Any, arrivals: Arrivals, new_tokens: Sequence[int], seed: int = 0
) -> TimedWorkload:
    """A pipeline of four requests for each arrival; a problem may come several times.

    new_tokens: the most tokens of the answer of each stage. arrivals: of the problems; with a
    closed loop a user's next problem comes after the last stage of the one before.
    """
    if len(new_tokens) != len(stages()):
        raise ParameterError(
            f"{len(new_tokens)} lengths of answers for {len(stages())} stages: "
            f"{', '.join(stage.name for stage in stages())}."
        )
    order = stream(seed, Use.TEXT).integers(len(problems()), size=len(arrivals))
    seeds = iter(request_seeds(seed, len(arrivals) * len(stages())))
    requests: list[TimedRequest] = []
    for number, (arrival, chosen) in enumerate(zip(arrivals, order, strict=True)):
        due, follows, takes = arrival.due, _last_of(arrival.follows), Takes.NOTHING
        for stage, most in zip(stages(), new_tokens, strict=True):
            first, last = _prompt(tokenizer, stage, problems()[chosen])
            requests.append(
                TimedRequest(due, first, most, number, next(seeds), follows, takes, last)
            )
            due, follows, takes = 0.0, len(requests) - 1, Takes.ANSWER
    facts = {"stages": [stage.name for stage in stages()]}
    return TimedWorkload("reasoning pipeline", tuple(requests), seed, facts)


def _last_of(problem: int | None) -> int | None:
    """The number of the last stage of a problem."""
    return None if problem is None else (problem + 1) * len(stages()) - 1


def template_tokens(tokenizer: Any) -> dict[str, int]:
    """Tokens with which every prompt of a stage begins, whatever the problem: what can be reused.

    Counted over the problems as they are, so that what two prompts happen to share counts too.
    """
    found: dict[str, int] = {}
    for stage in stages():
        prompts = [_prompt(tokenizer, stage, problem).before for problem in problems()]
        found[stage.name] = common_prefix(prompts)
    return found
