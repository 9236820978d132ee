"""Conversations: what is shared is shared, what repeats repeats as often as is said."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from labkit.errors import ParameterError
from labkit.model.load import LoadedModel
from labkit.workload.arrivals import at_once, closed_loop, constant, poisson
from labkit.workload.chat_tokens import around, next_turn, opening
from labkit.workload.conversations import (
    chats,
    hits_possible,
    repeated_questions,
    separate,
    shared_prefix,
    shared_tokens,
    zipf_shares,
)
from labkit.workload.timed import Takes, TimedRequest, TimedWorkload
from tests.workload.chatting import END, Bytes, Chatting, Forgetful, text

PLAIN, CHAT = Bytes(), Chatting()


def test_a_chat_in_the_models_template_and_in_plain_text() -> None:
    assert text(opening(CHAT, "Why?", "Be brief.")) == (
        "<system>Be brief.\x01<user>Why?\x01<assistant>"
    )
    assert text(opening(PLAIN, "Why?", "Be brief.")) == "Be brief.\n\nQuestion: Why?\nAnswer:"
    assert text(next_turn(CHAT, "And?")) == "\x01<user>And?\x01<assistant>"
    assert text(next_turn(PLAIN, "And?")) == "\n\nQuestion: And?\nAnswer:"
    first, last = around(CHAT, "Facts: ", " Plan:", "Plan it.")
    assert text(first) == "<system>Plan it.\x01<user>Facts: "
    assert text(last) == " Plan:\x01<assistant>"


def test_a_template_that_drops_answers_is_refused() -> None:
    with pytest.raises(ParameterError, match="shows an earlier answer 0 times"):
        next_turn(Forgetful(), "And?")


def test_separate_prompts_have_their_lengths() -> None:
    found = separate(PLAIN, poisson(5.0, 4, 1), (3, 50, 7, 1), (1, 2, 3, 4), seed=2)
    assert [len(one.prompt) for one in found.requests] == [3, 50, 7, 1]
    assert [one.new_tokens for one in found.requests] == [1, 2, 3, 4]
    assert len({one.seed for one in found.requests}) == 4
    closed = separate(PLAIN, closed_loop(2, 5), (3,) * 5, (2,) * 5)
    assert [one.follows for one in closed.requests] == [None, None, 0, 1, 2]


def test_exactly_the_prefix_is_shared() -> None:
    found = shared_prefix(PLAIN, at_once(20), 96, (32,) * 20, (4,) * 20, seed=1)
    assert shared_tokens(found) == 96
    assert {len(one.prompt) for one in found.requests} == {128}
    assert shared_tokens(shared_prefix(PLAIN, at_once(20), 0, (32,) * 20, (4,) * 20)) == 0
    other = shared_prefix(PLAIN, at_once(20), 96, (32,) * 20, (4,) * 20, seed=2)
    assert found.requests[0].prompt[:96] != other.requests[0].prompt[:96]


def test_chats_share_their_system_prompt_and_take_over_their_context() -> None:
    found = chats(CHAT, constant(1.0, 3), (1, 3, 2), 8, "Answer in short.", 2.0, seed=1)
    assert [one.conversation for one in found.requests] == [0, 1, 1, 1, 2, 2]
    assert [one.follows for one in found.requests] == [None, None, 1, 2, None, 4]
    assert [one.due for one in found.requests if one.follows is None] == [1.0, 2.0, 3.0]
    takes = [one.takes for one in found.requests]
    assert takes == [Takes.NOTHING, Takes.NOTHING, Takes.CONTEXT, Takes.CONTEXT, Takes.NOTHING,
                     Takes.CONTEXT]  # fmt: skip
    assert shared_tokens(found) >= len("<system>Answer in short.\x01<user>(Conversation ")
    turn = found.requests[2]
    assert turn.prompt[0] == END


def test_no_two_chats_begin_alike() -> None:
    found = chats(CHAT, at_once(60), (1,) * 60, 8)
    assert len({one.prompt for one in found.requests}) == 60


def test_a_popular_question_is_asked_as_often_as_zipf_says() -> None:
    distinct, count = 30, 20_000
    found = repeated_questions(CHAT, at_once(count), distinct, 1.1, seed=3)
    ranks = np.bincount([one.conversation for one in found.requests], minlength=distinct)
    assert stats.chisquare(ranks, zipf_shares(distinct, 1.1) * count).pvalue > 1e-3
    slope = stats.linregress(np.log(np.arange(1, distinct + 1)), np.log(ranks)).slope
    assert slope == pytest.approx(-1.1, abs=0.1)


def test_a_repeated_question_is_the_same_request() -> None:
    found = repeated_questions(CHAT, at_once(500), 20, 1.0, seed=1)
    asked = {(one.conversation, one.prompt, one.seed) for one in found.requests}
    assert len(asked) == len({rank for rank, *_ in asked}) == len({p for _, p, _ in asked}) <= 20
    assert hits_possible(found) == 1 - len(asked) / 500
    assert hits_possible(separate(PLAIN, at_once(9), (9,) * 9, (1,) * 9)) == 0


def test_what_takes_an_answer_over_is_no_repeated_question() -> None:
    asked = TimedRequest(0.0, (5, 6), 3)
    goes_on = TimedRequest(0.0, (7,), 3, follows=0, takes=Takes.CONTEXT)
    assert hits_possible(TimedWorkload("chat", (asked, asked, goes_on, goes_on))) == 0.25
    assert hits_possible(TimedWorkload("chat", (asked, goes_on, goes_on))) == 0


def test_with_exponent_zero_all_are_alike() -> None:
    assert zipf_shares(4, 0.0) == pytest.approx([0.25] * 4)
    assert zipf_shares(3, 1.0) == pytest.approx(np.array([6, 3, 2]) / 11)
    counts = Counter(
        one.conversation for one in repeated_questions(CHAT, at_once(4000), 4, 0.0).requests
    )
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_the_same_seed_asks_the_same() -> None:
    for make in (
        lambda seed: chats(CHAT, at_once(5), (3,) * 5, 8, seed=seed),
        lambda seed: repeated_questions(CHAT, at_once(50), 9, seed=seed),
        lambda seed: shared_prefix(PLAIN, at_once(5), 9, (9,) * 5, (1,) * 5, seed=seed),
    ):
        assert make(1) == make(1)
        assert make(1) != make(2)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ParameterError, match="prompt_tokens: 1 lengths.* for 2 arrivals"):
        separate(PLAIN, at_once(2), (3,), (1, 1))
    with pytest.raises(ParameterError, match="new_tokens: 2 lengths, the least 0"):
        separate(PLAIN, at_once(2), (3, 3), (1, 0))
    with pytest.raises(ParameterError, match="-1 shared tokens"):
        shared_prefix(PLAIN, at_once(1), -1, (3,), (1,))
    with pytest.raises(ParameterError, match="closed loop of chats"):
        chats(CHAT, closed_loop(1, 2), (1, 1), 8)
    for distinct, exponent in ((0, 1.0), (5, -1.0), (5, float("nan"))):
        with pytest.raises(ParameterError, match="exponent"):
            repeated_questions(CHAT, at_once(2), distinct, exponent)


@pytest.mark.model
def test_a_chat_from_pieces_is_the_chat_as_the_real_template_has_it(
    real_model: LoadedModel,
) -> None:
    tokenizer = real_model.tokenizer
    said = ["Why?", "Because.", "And {then}?"]
    roles = ("system", "user", "assistant", "user")
    messages = [
        {"role": role, "content": content}
        for role, content in zip(roles, ["Be brief.", *said], strict=True)
    ]
    whole = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    first, answer = opening(tokenizer, said[0], "Be brief."), tokenizer.encode(said[1])
    turn = TimedRequest(0, next_turn(tokenizer, said[2]), 8, follows=0, takes=Takes.CONTEXT)
    assert turn.full_prompt(first, answer) == whole
