"""Drafts against brute force."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import ParameterError
from labkit.optimize.speculative import (
    Adaptive,
    Fixed,
    ModelDraft,
    PromptLookup,
    Proposal,
    RowCosts,
    SuffixAutomaton,
    SuffixIndex,
    agreement,
    check_tokenizers,
    free_rows,
    keep_layers,
    least_missed,
)
from tests.tiny import tiny_decoder

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 1, 4, 1]
SMALL = st.lists(st.integers(0, 3), max_size=60)


def longest_match(text):
    """(length, places it went on from) of the longest suffix that stands earlier, by trying all."""
    for length in range(len(text) - 1, 0, -1):
        tail = text[len(text) - length :]
        ends = [e for e in range(length, len(text)) if text[e - length : e] == tail]
        if ends:
            return length, ends
    return 0, []


@settings(max_examples=300, deadline=None)
@given(SMALL)
def test_the_suffix_automaton_finds_what_brute_force_finds(text):
    automaton = SuffixAutomaton()
    for count, token in enumerate(text, 1):
        automaton.append(token)
        length, end = automaton.match()
        expected, ends = longest_match(text[:count])
        assert length == expected
        assert end in ends or (length == 0 and end == 0)
    assert len(automaton) == len(text)


def test_the_suffix_automaton_goes_on_from_the_latest_place():
    automaton = SuffixAutomaton()
    for token in [1, 2, 7, 1, 2, 8, 5, 1, 2]:
        automaton.append(token)
    assert automaton.match() == (2, 5)


@settings(max_examples=200, deadline=None)
@given(st.lists(SMALL.filter(bool), min_size=1, max_size=4), st.integers(1, 5))
def test_the_suffix_index_reads_the_whole_session_and_never_across_texts(texts, limit):
    draft, session = SuffixIndex(), []
    for number, text in enumerate(texts):
        session += [-number] if number else []
        draft.begin(text[:1], len(text))
        for count in range(1, len(text) + 1):
            found = draft.propose(text[:count], limit)
            length, ends = longest_match([*session, *text[:count]])
            assert found.evidence == length
            assert bool(found.tokens) == any(
                _after(session + text[:count], e, 1) for e in ends
            ) or (found.tokens == [])
            if found.tokens:
                assert found.tokens in [_after(session + text[:count], e, limit) for e in ends]
        draft.end(text)
        session += text


def _after(text, end, limit):
    """What stands after a place, up to the next separator."""
    return list(itertools.takewhile(lambda token: token >= 0, text[end : end + limit]))


def test_the_suffix_index_starts_anew_when_it_is_full():
    draft = SuffixIndex(capacity=20)
    texts = ([1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 9], [5, 6])
    for text in texts:
        draft.begin(text, 10)
        draft.end(text)
    assert draft.propose(texts[-1], 3).tokens == []  # 5, 6, 7, 8 went with the old index
    assert len(draft.index) == 2


@settings(max_examples=200, deadline=None)
@given(SMALL.filter(bool), st.integers(1, 4), st.integers(1, 6))
def test_prompt_lookup_finds_what_brute_force_finds(text, longest, limit):
    draft = PromptLookup(longest)
    draft.begin(text[:1], len(text))
    for count in range(1, len(text) + 1):
        context, expected = text[:count], []
        for size in range(longest, 0, -1):
            ends = [e for e in range(size, count) if context[e - size : e] == context[-size:]]
            if ends and size < count:
                expected = context[ends[-1] : ends[-1] + limit]
                break
        assert draft.propose(context, limit).tokens == expected


def test_the_evidence_of_a_lookup_is_the_length_of_its_match():
    draft = PromptLookup(2)
    text = [7, 1, 2, 3, 4, 5, 9, 1, 2, 3, 4]
    draft.begin(text, 20)
    assert draft.propose(text, 2) == Proposal([5, 9], None, 4)


@pytest.mark.parametrize("make", [
    lambda: PromptLookup(0), lambda: PromptLookup(2, 3), lambda: SuffixIndex(0),
    lambda: SuffixIndex(shortest=0), lambda: Fixed(-1), lambda: Adaptive(free_rows(1)),
    lambda: Adaptive(free_rows(4), draft_cost=-1), lambda: RowCosts(1.0, ()),
])  # fmt: skip
def test_parameters_that_make_no_sense_are_refused(make):
    with pytest.raises(ParameterError):
        make()


def test_a_draft_model_feeds_only_what_is_new():
    decoder = tiny_decoder()
    fed = []

    class Noting:
        config, new_cache = decoder.config, decoder.new_cache

        def __call__(self, rows, cache):
            fed.append((int(rows.positions[0]), len(rows)))
            return decoder(rows, cache)

    draft = ModelDraft(Noting())
    draft.begin(PROMPT, 60)
    first = draft.propose(PROMPT, 3).tokens
    assert fed == [(0, 13), (13, 1), (14, 1)]
    draft.propose([*PROMPT, *first[:1], 0], 2)  # the second was refused
    assert fed[3:] == [(14, 1), (15, 1)]
    assert draft.propose([*PROMPT, *first[:1], 0, 1, 2], 1).tokens
    assert fed[5][0] in (15, 16)


class Named:
    def __init__(self, name, vocab):
        self.name, self.tokenizer = name, self
        self.vocab = vocab

    def get_vocab(self):
        return self.vocab


def test_models_of_different_tokenizers_are_told_where_they_differ():
    big = Named("big", {"a": 0, "b": 1, "c": 2})
    check_tokenizers(big, Named("small", {"c": 2, "b": 1, "a": 0}))
    with pytest.raises(ParameterError, match="differ in 2 tokens; 'b' is 2 here and 1 there"):
        check_tokenizers(big, Named("small", {"a": 0, "b": 2, "c": 1}))
    with pytest.raises(ParameterError, match="differ in 1 tokens; 'c' is unknown here"):
        check_tokenizers(big, Named("small", {"a": 0, "b": 1}))


def test_layers_are_ranked_by_how_little_they_are_missed():
    decoder = tiny_decoder(layers=3)
    for part in (decoder.layers[1].self_attn.o_proj, decoder.layers[1].mlp.down_proj):
        part.weight.zero_()  # a layer that does nothing
    assert agreement(decoder, keep_layers(decoder, [0, 2]), PROMPT) == 1.0
    assert least_missed(decoder, PROMPT)[0] == 1
