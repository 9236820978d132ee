"""Requests that share passes: each gets the tokens that it gets alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.engine.accounting import Accounting
from labkit.engine.control import Fixed
from labkit.engine.generate import generate
from labkit.engine.passes import Passes
from labkit.engine.sequence import Decoding
from labkit.engine.speculate import Speculation
from labkit.errors import ParameterError
from labkit.model.cache.table import Cache
from labkit.model.decoder import Decoder
from labkit.model.rows import Part, Rows
from labkit.model.sampling import Sampler, greedy
from labkit.optimize.speculative import SuffixIndex
from tests.speculative_stubs import Bushy, Noted, Scripted
from tests.tiny import CONFIG, tiny_decoder

SLOTS, CAPACITY = 3, 64
KINDS = ("plain", "chain", "tree", "suffix")


@cache
def decoder() -> Decoder:
    return tiny_decoder()


@cache
def prompt(seed: int) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(CONFIG.vocab_size) for _ in range(rng.randint(1, 20)))


def sampler(seed: int | None) -> Callable[[Any], int]:
    return greedy if seed is None else Sampler(0.8, top_k=5, seed=seed)


@cache
def alone(seed: int, count: int, drawn: int | None, stop: int | None) -> list[int]:
    """What plain decoding gives this request, with nobody beside it."""
    stops = () if stop is None else (stop,)
    return list(generate(decoder(), prompt(seed), count, sampler=sampler(drawn), stop_ids=stops))


def request(
    kind: str, store: Cache, slot: int, seed: int, count: int, drawn: int | None, stop: int | None
) -> Decoding:
    """A request of a kind in a slot."""
    how: dict[str, Any] = {"slot": slot, "sampler": sampler(drawn)}
    how["stop_ids"] = frozenset() if stop is None else frozenset([stop])
    if kind == "plain":
        return Decoding(store, prompt(seed), count, **how)
    known = [*prompt(seed), *alone(seed, count, drawn, None)]
    drafts = {
        "chain": lambda: Scripted(known, 0.3, CONFIG.vocab_size, seed),
        "tree": lambda: Bushy(known, CONFIG.vocab_size, seed),
        "suffix": SuffixIndex,
    }
    how |= {"vocab": CONFIG.vocab_size, "accounting": Accounting()}
    return Speculation(store, prompt(seed), count, drafts[kind](), Fixed(5), **how)


a_request = st.tuples(
    st.sampled_from(KINDS), st.integers(0, 5), st.integers(1, 14),
    st.sampled_from([None, None, 3]), st.booleans(),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(a_request, min_size=1, max_size=7), st.integers(0, 10**6))
def test_each_request_gets_the_tokens_that_it_gets_alone(wanted: list[Any], seed: int) -> None:
    """Requests come when a slot is free; each pass takes any of them, in any order."""
    rng, store = random.Random(seed), decoder().new_cache(SLOTS, CAPACITY)
    passes, waiting = Passes(decoder(), store), list(wanted)
    running: dict[int, tuple[Decoding, list[int], list[int]]] = {}
    while waiting or running:
        for slot in sorted(set(range(SLOTS)) - set(running)):
            if waiting and rng.random() < 0.7:
                kind, number, count, drawn, stops = waiting.pop()
                stop = rng.choice(alone(number, count, drawn, None)) if stops else None
                expected = alone(number, count, drawn, stop)
                made = request(kind, store, slot, number, count, drawn, stop)
                running[slot] = made, [], expected
        slots = rng.sample(sorted(running), rng.randint(0, len(running)))
        if not slots:
            continue
        found = passes.step([running[slot][0] for slot in slots])
        for slot, tokens in zip(slots, found, strict=True):
            one, given_out, expected = running[slot]
            assert tokens
            given_out += tokens
            assert given_out == expected[: len(given_out)]
            assert store.length(slot) == len(one.context) - 1
            if one.done:
                assert given_out == expected
                store.truncate(slot, 0)
                del running[slot]


def test_requests_that_are_not_greedy_share_a_pass_with_those_that_are() -> None:
    store, noted = decoder().new_cache(2, 40), Noted(decoder())
    passes = Passes(noted, store)
    pair = [request("plain", store, 0, 1, 6, None, None), request("tree", store, 1, 2, 6, 3, None)]
    found = passes.step(pair)
    assert noted.passes == [len(prompt(1)) + len(prompt(2))]
    assert found == [alone(1, 6, None, None)[:1], alone(2, 6, 3, None)[:1]]


class NamesOnly:
    """A decoder that names likeliest tokens, and must not be asked for logits."""

    def __init__(self) -> None:
        self.config, self.parts = CONFIG, 0

    def new_cache(self, slots: int, capacity: int) -> Cache:
        return decoder().new_cache(slots, capacity)

    def __call__(self, rows: Rows, cache: Cache) -> Any:
        raise AssertionError("logits were asked for")

    def greedy(self, parts: Any, cache: Cache) -> list[list[int]]:
        self.parts += len(parts)
        rows = Rows.of(parts)
        best = decoder()(rows, cache).argmax(-1).split([part.wanted for part in parts])
        return [each.tolist() for each in best]


def test_a_decoder_that_names_tokens_is_asked_for_no_logits() -> None:
    names = NamesOnly()
    assert list(generate(names, prompt(1), 9)) == alone(1, 9, None, None)
    assert names.parts == 9
    with pytest.raises(AssertionError, match="logits were asked for"):
        list(generate(names, prompt(1), 2, sampler=sampler(3)))


def test_streams_go_to_the_parts_that_want_them() -> None:
    store = decoder().new_cache(2, 40)
    room = torch.full((22, CONFIG.hidden_size), torch.nan)
    parts = [Part(0, 0, prompt(1)), Part(1, 0, prompt(2), streams=room)]
    answers = Passes(decoder(), store).greedy(parts)
    count = len(prompt(2))
    _, expected = decoder().traced(Rows.prefill(prompt(2)), decoder().new_cache(1, count))
    torch.testing.assert_close(room[:count], expected)
    assert room[count:].isnan().all()
    assert answers[0].tokens == alone(1, 1, None, None)
    with pytest.raises(ParameterError, match="Noted gives no streams"):
        Passes(Noted(decoder()), decoder().new_cache(2, 40)).greedy(parts)


@pytest.mark.parametrize("shape", [(3, 1), (3, CONFIG.hidden_size + 1), (3,)])
def test_streams_that_cannot_take_the_rows_are_refused_before_the_pass(shape: Any) -> None:
    held = decoder().new_cache(1, 8)
    part = Part(0, 0, [1, 2, 3], streams=torch.zeros(shape))
    with pytest.raises(ValueError, match=f"for 3 rows of {CONFIG.hidden_size} numbers"):
        Passes(decoder(), held).greedy([part])
    assert held.length(0) == 0


def test_a_pass_of_no_requests_gives_nothing() -> None:
    assert Passes(decoder(), decoder().new_cache(1, 8)).step([]) == []
