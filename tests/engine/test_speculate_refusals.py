"""Drafts that fail, and requests that are refused."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch

from labkit.engine.generate import generate
from labkit.errors import ModelError, ParameterError
from labkit.model.cache.growing import GrowingCache
from labkit.model.cache.protocol import CacheError
from labkit.model.cache.static import StaticCache
from labkit.model.cache.window import SlidingWindowCache
from labkit.model.sampling import Sampler
from labkit.optimize.speculative import (
    Accounting,
    ModelDraft,
    PromptLookup,
    Proposal,
    speculate,
)
from tests.speculative_stubs import Broken, Scripted
from tests.tiny import CONFIG, tiny_decoder

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 1, 4, 1]
COUNT = 40


@cache
def target(seed=0):
    return tiny_decoder(seed)


@cache
def plain(seed=0):
    return list(generate(target(seed), PROMPT, 120))


@pytest.mark.parametrize(
    ("draft", "message"),
    [
        (Broken(1), "RuntimeError: out of ideas"),
        (Broken(3), "RuntimeError: out of ideas"),
        (Broken(2, [97]), r"outside 0\.\.96"),
        (Broken(2, [3, -1]), r"outside 0\.\.96"),
    ],
)
def test_a_draft_that_fails_is_dropped_and_the_output_stays_right(draft, message):
    accounting = Accounting()
    with pytest.warns(RuntimeWarning, match=message):
        found = list(speculate(target(), draft, PROMPT, COUNT, accounting=accounting))
    assert found == plain()[:COUNT]
    assert draft.asked == draft.at  # never again
    assert len(accounting.dropped) == 1
    assert accounting.dropped[0].startswith("broken was dropped: ")


class Odd(Broken):
    """Its probabilities do not fit its tokens."""

    def __init__(self, shape, parents=()) -> None:
        super().__init__(1)
        self.probs, self.parents = torch.full(shape, 1 / 97), parents

    def propose(self, context, limit) -> Proposal:
        return Proposal([1, 2], self.probs, parents=self.parents)


@pytest.mark.parametrize(
    "draft",
    [Odd((2, 96)), Odd((1, 97)), Odd((97,)), Odd((2, 97), (-1, -1))],
    ids=["vocabulary", "rows", "flat", "tree"],
)
def test_a_draft_whose_probabilities_do_not_fit_is_dropped(draft):
    drawn = partial(Sampler, 0.9, seed=3)
    alone = list(generate(target(), PROMPT, COUNT, sampler=drawn()))
    with pytest.warns(RuntimeWarning, match="broken was dropped: ParameterError: probabilities of"):
        assert list(speculate(target(), draft, PROMPT, COUNT, sampler=drawn())) == alone


@pytest.mark.parametrize("moment", ["begin", "end"])
def test_a_draft_may_fail_at_any_moment(moment):
    class Failing(PromptLookup):
        pass

    setattr(Failing, moment, lambda *_: 1 / 0)
    with pytest.warns(RuntimeWarning, match="ZeroDivisionError"):
        assert list(speculate(target(), Failing(), PROMPT, COUNT)) == plain()[:COUNT]


def test_a_draft_of_another_vocabulary_is_refused_at_the_call():
    with pytest.raises(ParameterError, match="vocabulary of 50, the target one of 97"):
        speculate(target(), ModelDraft(tiny_decoder(vocab_size=50)), PROMPT, 5)


@pytest.mark.parametrize(
    ("prompt", "count", "message"),
    [
        ([], 1, "at least 1"),
        (PROMPT, 0, "at least 1"),
        ([5] * 250, 10, "make 260"),
        ([97], 1, "lie in"),
    ],
)
def test_a_prompt_that_cannot_be_served_is_refused_at_the_call(prompt, count, message):
    with pytest.raises(ModelError, match=message):
        speculate(target(), PromptLookup(), prompt, count)


def test_a_window_that_would_drop_tokens_is_refused_at_the_call():
    room = len(PROMPT) + COUNT
    narrow = SlidingWindowCache(CONFIG, room - 1)
    with pytest.raises(ParameterError, match=f"window of {room - 1} cannot take drafts back"):
        speculate(target(), PromptLookup(), PROMPT, COUNT, cache=narrow)
    wide = SlidingWindowCache(CONFIG, room)
    assert list(speculate(target(), PromptLookup(), PROMPT, COUNT, cache=wide)) == plain()[:COUNT]


def test_a_cache_that_cannot_truncate_is_refused_at_the_call():
    class Fixture(GrowingCache):
        def truncate(self, slot, length):
            raise CacheError("append only")

    with pytest.raises(ParameterError, match="cannot take drafts back: append only"):
        speculate(target(), PromptLookup(), PROMPT, COUNT, cache=Fixture(CONFIG))


def test_a_cache_too_small_gives_as_many_tokens_as_plain_decoding():
    cache = StaticCache(CONFIG, 1, len(PROMPT) + 6)
    found = []
    draft = Scripted([*PROMPT, *plain()], 0.0, 97)
    with pytest.raises(CacheError, match="make it larger"):
        found.extend(speculate(target(), draft, PROMPT, COUNT, cache=cache))
    assert found == plain()[:7]


def test_a_slot_in_use_is_refused():
    cache = target().new_cache(1, 60)
    list(generate(target(), PROMPT, 3, cache=cache))
    with pytest.raises(CacheError, match="must go on there"):
        list(speculate(target(), PromptLookup(), PROMPT, 3, cache=cache))
