"""The reasoning pipeline: four stages, each reads the last one's answer after its own template."""

from __future__ import annotations

import pytest

from labkit.errors import ParameterError
from labkit.workload.arrivals import closed_loop, constant
from labkit.workload.feed import Feed
from labkit.workload.pipeline import problems, reasoning_pipeline, stages, template_tokens
from labkit.workload.timed import Takes
from tests.workload.chatting import Bytes, Chatting, text

CHAT = Chatting()


def test_the_stages_and_what_they_ask() -> None:
    assert [stage.name for stage in stages()] == ["translate", "plan", "solve", "verify"]
    assert ["{answer}" in stage.ask for stage in stages()] == [False, True, True, True]
    assert all(stage.ask.count("{answer}") <= 1 for stage in stages())
    assert not any("{" in stage.instructions for stage in stages())
    assert len(set(problems())) > 10


def test_each_stage_reads_the_answer_of_the_last() -> None:
    made = reasoning_pipeline(CHAT, constant(1.0, 2), (10, 20, 30, 40))
    assert [one.new_tokens for one in made.requests] == [10, 20, 30, 40] * 2
    assert [one.follows for one in made.requests] == [None, 0, 1, 2, None, 4, 5, 6]
    assert [one.takes for one in made.requests][:2] == [Takes.NOTHING, Takes.ANSWER]
    assert len({one.seed for one in made.requests}) == 8
    feed = Feed(made)
    for number, said in enumerate([b"FACTS", b"PLAN", b"STEPS"]):
        (due,) = feed.due(1.0)
        prompt = text(due.prompt)
        assert prompt.startswith(f"<system>{stages()[number].instructions}")
        assert prompt.endswith(":\x01<assistant>")
        feed.ended(due.number, 1.0, list(said))
    (last,) = feed.due(1.0)
    assert "The solution:\nSTEPS\n\nThe check:" in text(last.prompt)


@pytest.mark.parametrize("tokenizer", [CHAT, Bytes()])
def test_what_comes_before_a_problem_is_the_same_for_all(tokenizer: Bytes) -> None:
    shared = template_tokens(tokenizer)
    for stage in stages():
        assert shared[stage.name] >= len(stage.instructions)
    made = reasoning_pipeline(tokenizer, constant(1.0, 6), (1, 1, 1, 1), seed=1)
    for number, stage in enumerate(stages()):
        begins = {one.prompt[: shared[stage.name]] for one in made.requests[number::4]}
        assert len(begins) == 1


def test_a_user_asks_the_next_problem_after_the_last_stage() -> None:
    made = reasoning_pipeline(CHAT, closed_loop(1, 2), (1, 1, 1, 1))
    assert [one.follows for one in made.requests] == [None, 0, 1, 2, 3, 4, 5, 6]
    assert made.requests[4].takes is Takes.NOTHING


def test_lengths_for_other_stages_are_refused() -> None:
    with pytest.raises(ParameterError, match="2 lengths of answers for 4 stages: translate, plan"):
        reasoning_pipeline(CHAT, constant(1.0, 1), (1, 2))
