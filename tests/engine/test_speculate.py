"""Speculating gives generate's stream: every draft, every length, every stop, every cache."""

from __future__ import annotations

from functools import cache
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.engine.generate import generate
from labkit.engine.row_costs import filled
from labkit.errors import ParameterError
from labkit.model.cache.growing import GrowingCache
from labkit.model.cache.static import StaticCache
from labkit.model.sampling import Sampler, greedy
from labkit.optimize.speculative import (
    Accounting,
    Adaptive,
    Draft,
    Fixed,
    ModelDraft,
    PromptLookup,
    Proposal,
    SuffixIndex,
    free_rows,
    keep_layers,
    speculate,
)
from tests.speculative_stubs import Bushy, Noted, Scripted
from tests.tiny import CONFIG, tiny_decoder

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 1, 4, 1]
COUNT = 40


@cache
def target(seed=0):
    return tiny_decoder(seed)


@cache
def plain(seed=0):
    return list(generate(target(seed), PROMPT, 120))


def sources(seed=0):
    skipping = keep_layers(target(seed), [1])
    return {
        "lookup": PromptLookup(),
        "one-grams": PromptLookup(1),
        "suffix": SuffixIndex(),
        "itself": ModelDraft(target(seed)),
        "other": ModelDraft(tiny_decoder(7)),
        "layers skipped": ModelDraft(skipping),
        "drawing": ModelDraft(skipping, Sampler(1.0, seed=3)),
    }


@pytest.mark.parametrize("source", sources())
@pytest.mark.parametrize("length", [1, 4, 9])
def test_every_draft_gives_the_greedy_stream(source, length):
    draft = sources()[source]
    for _ in range(2):  # drafts are used again for the next request
        found = list(speculate(target(), draft, PROMPT, COUNT, control=Fixed(length)))
        assert found == plain()[:COUNT]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 3),
    wrong=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    length=st.integers(0, 12),
    count=st.integers(1, 60),
    stop=st.integers(0, 59),
    adaptive=st.booleans(),
    random=st.integers(0, 1000),
)
def test_any_draft_any_length_any_stop(seed, wrong, length, count, stop, adaptive, random):
    text = [*PROMPT, *plain(seed)]
    draft = Scripted(text, wrong, CONFIG.vocab_size, random)
    control = Adaptive(filled(1.0, {1: 1.0, 13: 3.0})) if adaptive else Fixed(length)
    stops = (plain(seed)[stop],)
    ours, theirs = (target(seed).new_cache(1, 100) for _ in range(2))
    accounting = Accounting()
    found = list(
        speculate(target(seed), draft, PROMPT, count, stop_ids=stops, cache=ours, control=control,
                  accounting=accounting)
    )  # fmt: skip
    assert found == list(generate(target(seed), PROMPT, count, stop_ids=stops, cache=theirs))
    assert ours.length(0) == theirs.length(0)
    assert len(accounting.drafted) == len(found) == accounting.tokens + 1
    assert sum(accounting.drafted) == accounting.accepted


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 3),
    length=st.integers(1, 12),
    count=st.integers(1, 60),
    stop=st.integers(0, 59),
    control=st.sampled_from([Fixed(12), Adaptive(filled(1.0, {1: 1.0, 13: 1.5}))]),
    random=st.integers(0, 1000),
    drawn=st.booleans(),
)
def test_any_tree(seed, length, count, stop, control, random, drawn):
    of = (lambda: Sampler(0.5, top_k=3, seed=random)) if drawn else (lambda: greedy)
    stops = (plain(seed)[stop],)
    ours, theirs = (target(seed).new_cache(1, 100) for _ in range(2))
    expected = generate(target(seed), PROMPT, count, sampler=of(), stop_ids=stops, cache=theirs)
    expected = list(expected)
    draft = Bushy([*PROMPT, *plain(seed)], CONFIG.vocab_size, random)
    accounting = Accounting()
    found = speculate(
        target(seed), draft, PROMPT, count, sampler=of(), stop_ids=stops, cache=ours,
        control=control, accounting=accounting,
    )  # fmt: skip
    assert list(found) == expected
    assert not accounting.dropped
    assert ours.length(0) == theirs.length(0)
    for mine, plains in zip(ours.store.tensors(0), theirs.store.tensors(0), strict=True):
        held = slice(0, ours.length(0))
        assert torch.allclose(mine[:, :, held], plains[:, :, held], atol=1e-4)


def test_a_tree_is_followed_off_its_first_branch():
    text = [*PROMPT, *plain()]

    class Second(Draft):
        name = "second"

        def propose(self, context, limit):
            first, second = text[len(context) : len(context) + 2]
            return Proposal([(first + 1) % 97, first, 5, second], parents=(-1, -1, 0, 1))

    noted, accounting = Noted(target()), Accounting()
    found = speculate(noted, Second(), PROMPT, 40, control=Fixed(4), accounting=accounting)
    assert list(found) == plain()[:40]
    assert noted.passes[:10] == [len(PROMPT)] + [5] * 9
    assert accounting.outcomes[4, 2] >= 10


def test_a_draft_that_is_right_saves_passes_and_one_that_is_wrong_costs_none():
    text = [*PROMPT, *plain()]
    right, wrong = Noted(target()), Noted(target())
    list(speculate(right, Scripted(text, 0.0, 97), PROMPT, 41, control=Fixed(4)))
    assert right.passes == [len(PROMPT)] + [5] * 8
    list(speculate(wrong, Scripted(text, 1.0, 97), PROMPT, 41, control=Fixed(4)))
    assert len(wrong.passes) == 41


def test_a_draft_is_cut_to_what_is_left_of_the_request():
    text = [*PROMPT, *plain()]
    noted, draft = Noted(target()), Scripted(text, 0.0, 97)
    list(speculate(noted, draft, PROMPT, 8, control=Fixed(5)))
    assert noted.passes == [len(PROMPT), 6, 1]
    assert draft.limits == [5]  # with one token left there is nothing to ask for


def test_the_whole_context_can_be_used():
    decoder = tiny_decoder(max_positions=len(PROMPT) + 20)
    expected = list(generate(decoder, PROMPT, 20))
    for draft in (Scripted([*PROMPT, *expected], 0.0, 97), ModelDraft(decoder)):
        assert list(speculate(decoder, draft, PROMPT, 20, control=Fixed(8))) == expected


def test_a_draft_model_with_a_shorter_context_falls_silent():
    short = tiny_decoder(max_positions=len(PROMPT) + 10)
    accounting = Accounting()
    found = speculate(target(), ModelDraft(short), PROMPT, COUNT, accounting=accounting)
    assert list(found) == plain()[:COUNT]
    assert accounting.proposed > 0
    assert not accounting.dropped


def test_no_pass_is_computed_ahead_of_what_is_read():
    noted = Noted(target())
    stream = speculate(noted, Scripted([*PROMPT, *plain()], 0.0, 97), PROMPT, 20)
    assert noted.passes == []
    assert next(stream) == plain()[0]
    assert noted.passes == [len(PROMPT)]
    list(islice(stream, 5))
    assert noted.passes == [len(PROMPT), 5]


def test_a_reader_that_stops_early_leaves_the_cache_as_plain_decoding_would():
    ours = target().new_cache(1, 100)
    stream = speculate(target(), Scripted([*PROMPT, *plain()], 0.0, 97), PROMPT, 20, cache=ours)
    assert list(islice(stream, 3)) == plain()[:3]  # the pass gave more
    stream.close()
    assert ours.length(0) == len(PROMPT) + 2


@pytest.mark.parametrize("seed", range(4))
def test_a_seed_draws_the_same_tokens_with_and_without_a_draft_that_does_not_draw(seed):
    def sampler():
        return Sampler(1.2, top_k=20, top_p=0.9, seed=seed)

    expected = list(generate(target(), PROMPT, COUNT, sampler=sampler()))
    for draft in (PromptLookup(), SuffixIndex(), Scripted([*PROMPT, *expected], 0.3, 97)):
        assert list(speculate(target(), draft, PROMPT, COUNT, sampler=sampler())) == expected


def test_a_sampler_of_ones_own_is_drawn_from():
    second = lambda logits: int(logits.topk(2).indices[1])  # noqa: E731
    expected = list(generate(target(), PROMPT, COUNT, sampler=second))
    for draft in (SuffixIndex(), sources()["drawing"], Scripted([*PROMPT, *expected], 0.3, 97)):
        assert list(speculate(target(), draft, PROMPT, COUNT, sampler=second)) == expected


@pytest.mark.parametrize("make", [GrowingCache, StaticCache], ids=["growing", "static"])
def test_every_cache_gives_the_same_tokens(make):
    stream = speculate(target(), SuffixIndex(), PROMPT, COUNT, cache=make(CONFIG))
    assert list(stream) == plain()[:COUNT]


def test_layers_skipped_are_the_layers_of_the_target():
    decoder = tiny_decoder(layers=4)
    skipping = keep_layers(decoder, [0, 2])
    assert skipping.config.layers == 2
    assert skipping.layers[1].mlp.up_proj.weight is decoder.layers[2].mlp.up_proj.weight
    assert [layer.self_attn.layer for layer in skipping.layers] == [0, 1]
    assert [layer.self_attn.layer for layer in decoder.layers] == [0, 1, 2, 3]
    for wrong in ([], [2, 0], [0, 0], [3, 4], [-1]):
        with pytest.raises(ParameterError, match=r"rising numbers in 0\.\.3"):
            keep_layers(decoder, wrong)


class Reading(Draft):
    """A stand-in for a learned head: keeps what it is shown, and knows the next token."""

    name = "reading"

    def __init__(self, text):
        self.text, self.read = text, 0

    def watch(self, streams):
        self.streams = streams

    def propose(self, context, limit):
        self.read = len(context) - 1
        return Proposal(
            [token + (i == 2) for i, token in enumerate(self.text[len(context) :][:limit])]
        )


def test_a_draft_can_read_the_targets_features():
    draft = Reading([*PROMPT, *plain()])
    found = list(speculate(target(), draft, PROMPT, 20))
    assert found == plain()[:20]
    from labkit.model.rows import Rows

    context = [*PROMPT, *found]
    with torch.inference_mode():
        every = target().hidden(Rows.prefill(context), target().new_cache(1, 60))
    seen = draft.streams[: draft.read]
    torch.testing.assert_close(seen, every[: draft.read], rtol=1e-4, atol=1e-4)


def test_a_target_that_hides_its_features_is_refused():
    with pytest.raises(ParameterError, match="reading reads the target's streams, and Noted"):
        speculate(Noted(target()), Reading(PROMPT), PROMPT, 5)


def test_free_rows_and_a_right_draft_use_the_longest_length():
    noted = Noted(target())
    draft = Scripted([*PROMPT, *plain()], 0.0, 97)
    list(speculate(noted, draft, PROMPT, 100, control=Adaptive(free_rows(9))))
    assert max(noted.passes[1:]) == 9


@pytest.mark.parametrize("parents", [(-1,), (-1, 5, 0), (-1, 0, -2)])
def test_a_draft_whose_tree_is_none_is_dropped(parents):
    class Wrong(Draft):
        name = "wrong"

        def propose(self, context, limit):
            return Proposal([1, 2, 3], parents=parents)

    counted = Accounting()
    with pytest.warns(RuntimeWarning, match="wrong was dropped"):
        found = list(speculate(target(), Wrong(), PROMPT, COUNT, accounting=counted))
    assert found == plain()[:COUNT]
    assert len(counted.dropped) == 1
