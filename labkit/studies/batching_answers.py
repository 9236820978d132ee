"""Is each answer the same as alone? A mixed schedule, and one hash over every logit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from labkit.engine.batching import BatchEngine
from labkit.engine.generate import generate
from labkit.engine.one_hash import Line, one_hash
from labkit.engine.records import PassRecord
from labkit.engine.scheduler import Budget, blocks_of
from labkit.engine.served import Handle, ServedRequest
from labkit.model.cache.paged import BLOCK_SIZE
from labkit.model.forward import Forward
from labkit.quality.lossless import SameAnswer, same_answer

Asked = Sequence[tuple[tuple[int, ...], int]]  # prompts, and the tokens of their answers
WAYS = ("every chunk size", "preempted at every token", "neighbours cancelled", "drafts on, chains")
_BUDGET = Budget(rows=48, answering=24)  # small, so that prompts are read in chunks
_MEMORY = 0.7  # of what as many requests as there are slots take at most
_PREEMPTED = 5  # steps after which the newest request loses its slot


@dataclass(frozen=True)
class Mixed:
    """Answers from a schedule in which everything happens, against the requests alone."""

    same: list[SameAnswer]
    records: list[PassRecord]

    @property
    def both(self) -> int:
        """Passes with rows of prompts and rows of answers."""
        return sum(one.prefill > 0 and one.decode > 0 for one in self.records)

    @property
    def preempted(self) -> int:
        """How often a request lost its slot and was computed again."""
        return sum(len(one.preempted) for one in self.records)


def asked_of(prompts: Sequence[tuple[int, ...]], new_tokens: int) -> Asked:
    """The prompts, with answers of 1 to twice as many tokens."""
    lengths = cycle(np.random.default_rng(7).integers(1, 2 * new_tokens + 1, 97).tolist())
    return list(zip(prompts, islice(lengths, len(prompts)), strict=True))


def mixed(decoder: Forward, asked: Asked, slots: int, tie: float = 0.0) -> Mixed:
    """Serve requests with little memory and small passes; compare each answer with the one alone.

    Half of them come while others run; every few steps the newest loses its slot. tie: a margin of
    logits that counts as rounding.
    """
    sizes = [blocks_of(len(prompt) + count, BLOCK_SIZE) for prompt, count in asked]
    blocks = max(*sizes, int(_MEMORY * sum(sorted(sizes)[-slots:])))
    engine = BatchEngine(decoder, slots, blocks, budget=_BUDGET)
    same = [
        same_answer(decoder, prompt, list(generate(decoder, prompt, count)), handle.tokens, tie)
        for (prompt, count), handle in zip(asked, _handles(engine, asked), strict=True)
    ]
    return Mixed(same, engine.records)


def _handles(engine: BatchEngine, asked: Asked) -> list[Handle]:
    """All requests, answered."""
    requests = [ServedRequest(prompt, count) for prompt, count in asked]
    handles = [engine.submit(one) for one in requests[: len(requests) // 2]]
    later, steps = iter(requests[len(handles) :]), 0
    while not engine.idle:
        engine.step()
        steps += 1
        handles += [engine.submit(one) for one in islice(later, 1)]
        if steps % _PREEMPTED == 0 and engine.running:
            engine.preempt(engine.running[-1])
    return handles


def hashed(
    decoder: Forward, prompts: Sequence[tuple[int, ...]], new_tokens: int, batches: Sequence[int]
) -> list[Line]:
    """A line for each way to compute the same answers: the hash over all their logits."""
    names = [f"in batches of {batch}" for batch in batches]
    lines = one_hash([("here", decoder)], prompts, new_tokens, batches, [*names, *WAYS])
    return list(lines)
