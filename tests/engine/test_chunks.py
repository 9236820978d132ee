"""A request that reads its prompt in chunks, and one that goes on in another slot."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest

from labkit.engine.accounting import Accounting
from labkit.engine.control import Fixed
from labkit.engine.generate import generate
from labkit.engine.passes import Passes
from labkit.engine.sequence import Decoding
from labkit.engine.speculate import Speculation
from labkit.model.cache.table import Cache
from labkit.model.decoder import Decoder
from labkit.model.sampling import Sampler, greedy
from tests.speculative_stubs import Bushy, Scripted
from tests.tiny import CONFIG, tiny_decoder

PROMPT = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46]
COUNT = 14


@cache
def decoder() -> Decoder:
    return tiny_decoder()


def sampler(drawn: bool) -> Any:
    return Sampler(0.8, top_k=5, seed=3) if drawn else greedy


@cache
def alone(drawn: bool) -> list[int]:
    return list(generate(decoder(), PROMPT, COUNT, sampler=sampler(drawn)))


def request(kind: str, store: Cache, drawn: bool = False) -> Decoding:
    if kind == "plain":
        return Decoding(store, PROMPT, COUNT, sampler=sampler(drawn))
    known = [*PROMPT, *alone(drawn)]
    make = {"chain": lambda: Scripted(known, 0.3, 97), "tree": lambda: Bushy(known, 97)}[kind]
    how = {"vocab": CONFIG.vocab_size, "accounting": Accounting(), "sampler": sampler(drawn)}
    return Speculation(store, PROMPT, COUNT, make(), Fixed(5), **how)


def step(passes: Passes, one: Decoding, limit: int) -> list[int]:
    part = one.plan(limit)
    assert len(part.tokens) <= limit
    (answer,) = passes.answers([part], [one.greedy])
    tokens = one.take(answer)
    assert passes.cache.length(one.slot) == one.read
    return tokens


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("kind", ["plain", "chain", "tree"])
@pytest.mark.parametrize("limit", [1, 2, 5, 10, 11, 40])
def test_chunks_give_the_same_tokens(kind: str, limit: int, drawn: bool) -> None:
    store = decoder().new_cache(1, 40)
    passes, one = Passes(decoder(), store), request(kind, store, drawn)
    found = []
    chunks = -(-len(PROMPT) // limit)
    for _ in range(chunks - 1):
        assert step(passes, one, limit) == []
        assert one.unread > 0
    while not one.done:
        tokens = step(passes, one, limit)
        assert tokens
        found += tokens
    assert found == alone(drawn)


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("kind", ["plain", "chain", "tree"])
def test_a_request_that_lost_its_slot_loses_no_token(kind: str, drawn: bool) -> None:
    """Its slot is taken after any pass, within the prompt too, and parts of it may be kept."""
    for seed in range(8):
        rng, store = random.Random(seed), decoder().new_cache(3, 40)
        passes, one = Passes(decoder(), store), request(kind, store, drawn)
        found: list[int] = []
        while not one.done:
            if rng.random() < 0.4:
                slot, kept = (one.slot + 1) % 3, rng.randint(0, one.read)
                kept = min(kept, len(one.context) - 1)
                store.truncate(one.slot, kept)
                if kept:
                    slot = store.fork(one.slot)
                    store.truncate(one.slot, 0)
                one.move(slot, kept)
            found += step(passes, one, rng.randint(1, 9))
        assert found == alone(drawn)


def test_a_request_goes_on_only_where_its_tokens_are() -> None:
    store = decoder().new_cache(2, 40)
    one = Decoding(store, PROMPT, COUNT)
    step(Passes(decoder(), store), one, 20)
    with pytest.raises(ValueError, match="slot 1 holds 0 tokens; a context of 12 cannot go on"):
        one.move(1, 5)
    store.extend(1, 12)
    with pytest.raises(ValueError, match="from 12: one row must be left"):
        one.move(1, 12)


class Told(Scripted):
    """A draft that notes when a request begins and ends."""

    def begin(self, context: Any, most: int) -> None:
        self.began = [*getattr(self, "began", []), list(context)]


def test_a_draft_is_shown_the_prompt_once() -> None:
    store, draft = decoder().new_cache(1, 40), Told([*PROMPT, *alone(False)], 0.3, 97)
    how = {"vocab": CONFIG.vocab_size, "accounting": Accounting()}
    one = Speculation(store, PROMPT, COUNT, draft, Fixed(3), **how)
    while not one.done:
        store.truncate(0, 0)
        one.move(0, 0)
        while not step(Passes(decoder(), store), one, 4):
            pass
    assert draft.began == [PROMPT]
