"""Timed requests: what a prompt takes over, and what is no workload."""

from __future__ import annotations

import math
from typing import Any

import pytest

from labkit.errors import ParameterError
from labkit.workload.timed import Takes, TimedRequest, TimedWorkload, common_prefix

FIRST = TimedRequest(0.5, (1, 2, 3), 4, seed=9)


def test_a_prompt_takes_over_what_it_says() -> None:
    context, answer = [1, 2, 3], [7, 8]
    assert FIRST.full_prompt() == [1, 2, 3]
    turn = TimedRequest(0, (5, 6), 4, follows=0, takes=Takes.CONTEXT)
    assert turn.full_prompt(context, answer) == [1, 2, 3, 7, 8, 5, 6]
    stage = TimedRequest(0, (5,), 4, follows=0, takes=Takes.ANSWER, ending=(6,))
    assert stage.full_prompt(context, answer) == [5, 7, 8, 6]
    waits = TimedRequest(0, (5,), 4, follows=0)
    assert waits.full_prompt(context, answer) == [5]


def test_lengths_and_facts_of_a_workload() -> None:
    turn = TimedRequest(1, (5, 6), 10, follows=0, takes=Takes.CONTEXT)
    stage = TimedRequest(0, (5,), 3, 1, follows=1, takes=Takes.ANSWER, ending=(6, 7))
    later = TimedRequest(2.5, (4,), 2, 2)
    made = TimedWorkload("mixed", (FIRST, turn, stage, later), seed=3, facts={"more": 1})
    assert made.longest_prompts() == [3, 3 + 4 + 2, 10 + 3, 1]
    assert made.longest == 19
    assert made.offered_rate == 0.5
    assert made.describe() == {
        "name": "mixed", "requests": 4, "conversations": 3, "prompt_tokens": 26, "new_tokens": 19,
        "offered_rate": 0.5, "seed": 3, "more": 1,
    }  # fmt: skip
    assert TimedWorkload("one", (FIRST,)).offered_rate is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"due": -0.1}, "due at -0.1"),
        ({"due": math.nan}, "due at nan"),
        ({"due": math.inf}, "due at inf"),
        ({"new_tokens": 0}, "0 new tokens"),
        ({"prompt": ()}, "needs tokens"),
        ({"prompt": (3, -1)}, "needs tokens, numbered from 0 on"),
        ({"takes": Takes.ANSWER}, "takes over the answer of no request"),
    ],
)
def test_what_is_no_request_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        TimedRequest(**{"due": 0.0, "prompt": (1,), "new_tokens": 1} | changed)


def test_what_is_no_workload_is_refused() -> None:
    with pytest.raises(ParameterError, match="the workload empty has no request"):
        TimedWorkload("empty", ())
    with pytest.raises(ParameterError, match="request 1 is due at 0.2 s, after .* 0.5 s. Sort"):
        TimedWorkload("unsorted", (FIRST, TimedRequest(0.2, (1,), 1)))
    for follows in (1, 2, -1):
        with pytest.raises(ParameterError, match="it can follow an earlier one only"):
            TimedWorkload("circle", (FIRST, TimedRequest(0, (1,), 1, follows=follows)))


def test_common_prefix() -> None:
    assert common_prefix([[1, 2, 3], [1, 2, 4], [1, 2]]) == 2
    assert common_prefix([[1], [2]]) == 0
    assert common_prefix([[1, 2]]) == 2
    assert common_prefix([]) == 0
