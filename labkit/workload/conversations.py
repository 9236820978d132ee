"""What is asked: prompts with a shared beginning, chats of several turns, popular questions.

These are the loads on which caches live or die. Each takes the arrivals of its conversations
(arrivals.py) and the lengths of its answers (lengths.py), and gives a TimedWorkload.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from labkit.errors import ParameterError
from labkit.workload.arrivals import Arrivals
from labkit.workload.chat_tokens import next_turn, opening
from labkit.workload.prompts import Tokenizer, prompt_ids
from labkit.workload.questions import short
from labkit.workload.streams import Use, request_seeds, stream
from labkit.workload.tasks import read_texts, tasks
from labkit.workload.timed import Takes, TimedRequest, TimedWorkload, common_prefix

_SHARED = 1_000_003  # the number of the shared prompt among the prompts of a seed


def _check_lengths(arrivals: Arrivals, **lengths: Sequence[int]) -> None:
    """ParameterError where there is not one length for each arrival."""
    for name, found in lengths.items():
        if len(found) != len(arrivals) or min(found, default=1) < 1:
            raise ParameterError(
                f"{name}: {len(found)} lengths, the least {min(found, default=0)}, for "
                f"{len(arrivals)} arrivals. Give one for each, of 1 token and more."
            )


def separate(
    tokenizer: Tokenizer,
    arrivals: Arrivals,
    prompt_tokens: Sequence[int],
    new_tokens: Sequence[int],
    seed: int = 0,
    name: str = "separate prompts",
) -> TimedWorkload:
    """Prompts of exactly these lengths, each cut from the text at a place of its own.

    Their texts are parts of one text, so that a long prompt may contain another; only by chance do
    two begin alike.
    """
    _check_lengths(arrivals, prompt_tokens=prompt_tokens, new_tokens=new_tokens)
    seeds = request_seeds(seed, len(arrivals))
    prompts = [
        tuple(prompt_ids(tokenizer, tokens, number, seed))
        for number, tokens in enumerate(prompt_tokens)
    ]
    made = zip(arrivals, prompts, new_tokens, seeds, strict=True)
    requests = tuple(
        TimedRequest(one.due, prompt, new, number, own_seed, one.follows)
        for number, (one, prompt, new, own_seed) in enumerate(made)
    )
    return TimedWorkload(name, requests, seed)


def shared_prefix(
    tokenizer: Tokenizer,
    arrivals: Arrivals,
    shared_tokens: int,
    own_tokens: Sequence[int],
    new_tokens: Sequence[int],
    seed: int = 0,
) -> TimedWorkload:
    """Prompts that begin with the same `shared_tokens` tokens, as after one system prompt.

    By chance two may share a few more; `shared_tokens` counts what all share.
    """
    if shared_tokens < 0:
        raise ParameterError(f"{shared_tokens} shared tokens: allowed are 0 and more.")
    own = separate(tokenizer, arrivals, own_tokens, new_tokens, seed)
    shared = tuple(prompt_ids(tokenizer, shared_tokens, _SHARED, seed))
    requests = tuple(replace(one, prompt=shared + one.prompt) for one in own.requests)
    facts = {"shared_tokens": shared_tokens}
    return TimedWorkload("shared prefix", requests, seed, facts)


def shared_tokens(workload: TimedWorkload) -> int:
    """Tokens with which all prompts of a workload begin that take nothing over."""
    return common_prefix([one.prompt for one in workload.requests if one.takes is Takes.NOTHING])


@cache
def _follow_ups() -> tuple[str, ...]:
    return tuple(read_texts("follow_ups"))


def _openings(count: int, random: np.random.Generator) -> list[str]:
    """First questions, each with a number of its own, so that no two are alike."""
    texts = [task.prompt for task in tasks(("chat", "arithmetic"), held_out=False)]
    order = random.permutation(count)
    return [
        f"(Conversation {number}.) {texts[order[number] % len(texts)]}" for number in range(count)
    ]


def chats(
    tokenizer: Any,
    arrivals: Arrivals,
    turns: Sequence[int],
    new_tokens: int,
    system: str = "",
    think_seconds: float = 0.0,
    seed: int = 0,
) -> TimedWorkload:
    """Chats of several turns: each prompt is the whole chat so far, the real answers included.

    arrivals: of the chats. turns: of each chat. new_tokens: the most of each answer. system: a
    system prompt that all share. think_seconds: on average, exponential, before each next question.
    """
    _check_lengths(arrivals, turns=turns)
    if any(one.follows is not None for one in arrivals):
        raise ParameterError("chats begin at given times: a closed loop of chats is not made here.")
    thinking, text = stream(seed, Use.THINKING), stream(seed, Use.TEXT)
    seeds = iter(request_seeds(seed, sum(turns)))
    requests: list[TimedRequest] = []
    for number, asked in enumerate(_openings(len(arrivals), text)):
        prompt = opening(tokenizer, asked, system)
        requests.append(TimedRequest(arrivals[number].due, prompt, new_tokens, number, next(seeds)))
        for _ in range(turns[number] - 1):
            prompt = next_turn(tokenizer, str(text.choice(_follow_ups())))
            due, before = float(thinking.exponential() * think_seconds), len(requests) - 1
            requests.append(
                TimedRequest(due, prompt, new_tokens, number, next(seeds), before, Takes.CONTEXT)
            )
    facts = {"turns": sum(turns), "think_seconds": think_seconds}
    return TimedWorkload("chats", tuple(requests), seed, facts)


def zipf_shares(distinct: int, exponent: float) -> np.ndarray:
    """How often each of `distinct` things is asked, the most popular first: 1/rank^exponent.

    Exponent 0: all alike. Raises ParameterError.
    """
    if distinct < 1 or not 0 <= exponent < 100:
        raise ParameterError(
            f"{distinct} things, exponent {exponent}: allowed are 1 and more, and 0 to 100."
        )
    weights = np.arange(1, distinct + 1, dtype=np.float64) ** -exponent
    shares: np.ndarray = weights / weights.sum()
    return shares


def repeated_questions(
    tokenizer: Any,
    arrivals: Arrivals,
    distinct: int,
    exponent: float = 1.0,
    new_tokens: int = 32,
    seed: int = 0,
) -> TimedWorkload:
    """`distinct` questions, asked as often as Zipf's law says; each always with the same seed.

    A request's conversation is the rank of its question, 0 for the most popular one.
    """
    shares = zipf_shares(distinct, exponent)
    every = short((distinct + 1) // 2, seed)
    asked = stream(seed, Use.TEXT).permutation(len(every))[:distinct]
    prompts = [opening(tokenizer, every[place].prompt) for place in asked]
    seeds = request_seeds(seed, distinct)
    ranks = stream(seed, Use.POPULARITY).choice(distinct, len(arrivals), p=shares)
    requests = tuple(
        TimedRequest(one.due, prompts[rank], new_tokens, int(rank), seeds[rank], one.follows)
        for one, rank in zip(arrivals, ranks, strict=True)
    )
    facts = {"distinct": distinct, "exponent": exponent}
    return TimedWorkload("repeated questions", requests, seed, facts)


def hits_possible(workload: TimedWorkload) -> float:
    """The share of requests that an earlier one asked word for word: what a response cache can
    answer at most, if answers stay in it for ever."""
    keys = [(one.prompt, one.ending, one.new_tokens, one.seed) for one in workload.requests
            if one.takes is Takes.NOTHING]  # fmt: skip
    new = len(workload.requests) - len(keys) + len(set(keys))  # what takes over is new each time
    return 1 - new / len(workload.requests)
