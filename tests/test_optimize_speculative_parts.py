"""Drafts against brute force; control, accounting, costs and predictions by hand."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import ModelError, ParameterError
from labkit.limits.hardware import Hardware, Reading
from labkit.model.generate import generate
from labkit.optimize.speculative import (
    NOTHING,
    Acceptance,
    Accounting,
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
    foresight,
    free_rows,
    keep_layers,
    least_missed,
    limit_costs,
    replay,
    row_costs,
    speculate,
    study,
)
from labkit.optimize.speculative.control import bucket
from labkit.optimize.speculative.costs import filled
from labkit.optimize.speculative.head_draft import HeadCost
from labkit.optimize.speculative.predict import (
    best_length,
    break_even,
    expected_in_chain,
    expected_tokens,
    mixed_speedup,
    speedup,
)
from labkit.workload.tasks import Task
from tests.speculative_stubs import Scripted
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


# Control


def outcomes(control, hits, length=4, evidence=3):
    """Drafted tokens of each pass, when the draft is right or wrong as a whole, by script."""
    sent = []
    for hit in hits:
        limit = control.limit()
        proposal = Proposal([1] * min(length, limit), None, evidence) if limit else NOTHING
        sent.append(control.choose(proposal) if limit else 0)
        control.learn(proposal, sent[-1], [1 if hit else 2] * (sent[-1] * hit + 1))
    return sent


COSTS = filled(1.0, {1: 1.0, 2: 1.3, 5: 2.2, 9: 3.6})


def test_it_falls_to_plain_decoding_when_nothing_is_accepted_and_comes_back():
    sent = outcomes(Adaptive(COSTS), [True] * 20 + [False] * 30 + [True] * 30)
    assert sent[19] == 4
    assert set(sent[24:50]) == {0}
    assert sent[-1] == 4
    assert 4 in sent[50:58]


def test_a_wrong_draft_is_given_up_within_a_few_tokens():
    for evidence in (0, 1, 3, 10, 40):
        sent = outcomes(Adaptive(COSTS), [False] * 60, evidence=evidence)
        assert sum(length > 0 for length in sent) <= 8
        assert not any(sent[8:])


def test_nothing_is_proposed_where_rows_cost_what_they_yield():
    straight = filled(1.0, {1: 1.0, 9: 9.0})
    assert not any(outcomes(Adaptive(straight), [True] * 50))


def test_a_draft_that_costs_is_asked_at_growing_intervals():
    control = Adaptive(COSTS, draft_cost=0.3)
    asked = []
    for number in range(200):
        limit = control.limit()
        proposal = Proposal([1] * limit)
        sent = control.choose(proposal)
        if limit:
            asked.append(number)
        control.learn(proposal, sent, [2])
    assert len(asked) < 12
    gaps = [b - a for a, b in itertools.pairwise(asked[-4:])]
    assert gaps == sorted(gaps)
    assert gaps[-1] == 64
    assert max(outcomes(control, [True] * 100, length=9, evidence=0)) > 1  # and it comes back


def test_a_draft_that_draws_is_judged_only_where_it_was_verified():
    import torch

    control = Adaptive(COSTS)
    before = control.acceptance.rate(0)
    control.learn(Proposal([1, 2], torch.ones(2, 4)), 0, [3])
    assert control.acceptance.rate(0) == before
    control.learn(Proposal([1, 2], torch.ones(2, 4)), 1, [3])
    assert control.acceptance.rate(0) < before


def test_running_acceptance_by_hand():
    running = Acceptance(memory=2, prior=2.0)
    assert running.rates(0, 3) == [0.5, 0.3, 0.55]
    running.note(1, False)
    assert running.rates(0, 3) == [0.5, pytest.approx(0.6 / 3), 0.55]
    running.note(0, True)
    assert running.rate(0) == 2 / 3
    assert running.rate(1) == pytest.approx(4 / 9)  # of a prior of 2/3 now
    running.note(0, False)  # hits 1 / 2, tries 1 / 2 + 1, and a prior of 2 at 1/2
    assert running.rate(0) == pytest.approx(1.5 / 3.5)
    assert running.rate(2) == 0.55


def test_buckets_widen():
    assert [bucket(m) for m in (0, 1, 4, 5, 7, 8, 15, 16, 31, 32, 63, 64, 999)] == [
        0, 1, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9,
    ]  # fmt: skip


# Accounting


def test_accounting_by_hand():
    account = Accounting()
    for sent, accepted in [(4, 4), (4, 1), (2, 0), (0, 0)]:
        account.note(sent, accepted, accepted + 1, verifying=1.0)
    assert account.passes == 4
    assert account.tokens == 9
    assert (account.proposed, account.accepted) == (10, 5)
    assert account.acceptance_rate == 0.5
    assert account.acceptance_at() == [2 / 3, 1 / 2, 1.0, 1.0]
    assert account.mean_accepted_length == 9 / 4
    assert account.lengths == {4: 2, 2: 1, 0: 1}
    assert account.drafted == [True] * 4 + [False, True] + [False] * 3
    assert account.verifying == 4.0
    assert account.lost == pytest.approx(3 / 5 + 2 / 3)
    assert account.summary()["mean_accepted_length"] == 2.25


def test_lost_time_by_measured_costs():
    account = Accounting(COSTS)
    account.note(4, 1, 2, verifying=2.2)
    assert account.lost == pytest.approx(2.2 - 1.3)


def test_accounting_of_nothing():
    assert Accounting().acceptance_rate is None
    assert Accounting().mean_accepted_length is None
    assert Accounting().acceptance_at() == []


def test_several_requests_add_up():
    decoder, account = tiny_decoder(), Accounting()
    for _ in range(2):
        list(speculate(decoder, SuffixIndex(), PROMPT, 10, accounting=account))
    assert account.tokens == 18
    assert len(account.drafted) == 20


def test_a_replay_is_the_run():
    decoder = tiny_decoder()
    answer = list(generate(decoder, PROMPT, 60))
    makers = (
        PromptLookup,
        SuffixIndex,
        lambda: ModelDraft(keep_layers(decoder, [0])),
        lambda: Scripted([*PROMPT, *answer], 0.2, 97),
    )
    for make in makers:
        real, control = Accounting(), Adaptive(COSTS)
        list(speculate(decoder, make(), PROMPT, 60, control=control, accounting=real))
        known = replay(decoder.config, make(), PROMPT, answer, control=Adaptive(COSTS))
        assert known.outcomes == real.outcomes
        assert known.drafted == real.drafted


# Costs and predictions


def test_the_formula_of_the_paper():
    assert expected_tokens(0.8, 5) == pytest.approx((1 - 0.8**6) / (1 - 0.8))
    assert expected_tokens(1.0, 5) == 6
    assert expected_tokens(0.0, 5) == 1
    paper = (1 - 0.75**8) / ((1 - 0.75) * (7 * 0.02 + 1))
    assert speedup(0.75, 7, free_rows(), 0.02) == pytest.approx(paper)
    assert speedup(0.75, 4, COSTS, 0.02) == pytest.approx(expected_tokens(0.75, 4) / (2.2 + 0.08))


def test_passes_of_different_lengths():
    def of(outcomes):
        return Accounting(outcomes=Counter(outcomes))

    half = {(4, 0): 8, (4, 1): 4, (4, 2): 2, (4, 3): 1, (4, 4): 1}
    assert mixed_speedup(of(half), COSTS) == pytest.approx(speedup(0.5, 4, COSTS))
    assert mixed_speedup(of({(0, 0): 7}), COSTS) == 1.0
    # Long drafts where much is accepted, short ones where little is: tokens are what they were.
    mixed = of({(4, 4): 6, (4, 2): 1, (1, 0): 5, (1, 1): 1, (0, 0): 2})
    tokens = 6 * 5 + 3 + 5 + 2 + 2
    cost = 7 * (COSTS.r(5) + 0.4) + 6 * (COSTS.r(2) + 0.1) + 2
    assert mixed_speedup(mixed, COSTS, 0.1) == pytest.approx(tokens / cost)
    assert mixed_speedup(mixed, COSTS, 0.1, asking=3) == pytest.approx(tokens / (cost + 3))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(0, 1), max_size=12), st.lists(st.floats(0, 1), min_size=1, max_size=12),
    st.floats(0, 0.5),
)  # fmt: skip
def test_the_best_length_is_the_best_of_all(rates, steps, cost):
    costs = RowCosts(1.0, tuple(itertools.accumulate([1.0, *steps])))
    found = best_length(rates, costs, cost)
    gains = [
        expected_in_chain(rates[:length]) / (costs.r(length + 1) + length * cost)
        for length in range(min(len(rates), costs.most - 1) + 1)
    ]
    assert gains[found] == pytest.approx(max(gains))
    assert found == 0 or gains[found] > 1


def test_break_even():
    assert break_even(1, COSTS) == pytest.approx(0.3)
    assert break_even(3, free_rows()) == pytest.approx(0.0, abs=1e-9)
    assert break_even(2, filled(1.0, {1: 1.0, 3: 3.0})) == float("inf")
    assert expected_tokens(break_even(4, COSTS), 4) == pytest.approx(COSTS.r(5))


def test_costs_between_measured_rows_lie_on_a_line():
    assert filled(0.1, {1: 1.0, 3: 2.0, 4: 2.1}).relative == pytest.approx((1.0, 1.5, 2.0, 2.1))


def test_row_costs_are_those_of_real_passes():
    decoder = tiny_decoder()
    passes = []

    class Noting:
        config, new_cache = decoder.config, decoder.new_cache

        def __call__(self, rows, cache):
            passes.append((len(rows), len(rows.wanted), rows.spans[0].start))
            read.append(rows.ids)
            return decoder(rows, cache)

    read: list[list[int]] = []
    text = [n % 90 for n in range(27)]
    costs = row_costs(Noting(), ks=(2, 4), context=20, rounds=3, text=text)
    said = [*text[:20], *generate(decoder, text[:20], 7)]
    assert passes[:7] == [(20, 1, 0), *((1, 1, start) for start in range(20, 26))]
    rounds = [(k, k, start) for start in (23, 22, 21, 20) for k in (1, 1, 1, 2, 4)]
    assert sorted(passes[7:]) == sorted(rounds)
    right = set()
    for ids, (count, _, start) in zip(read, passes, strict=True):
        wrong = [at for at, token in enumerate(ids) if token != said[start + at]]
        assert 0 not in wrong
        assert len(wrong) <= 1
        right.add((count, min(wrong, default=count)))
    assert {(2, 1), (2, 2)} <= right  # guesses that are right up to a random place
    assert len({hits for count, hits in right if count == 4}) > 1
    assert costs.context == 20
    assert costs.most == 4
    assert costs.r(1) == 1.0
    assert costs.r(3) == pytest.approx((costs.r(2) + costs.r(4)) / 2)
    assert costs.seconds > 0
    with pytest.raises(ModelError, match="context"):
        row_costs(decoder, context=250)


def test_the_limit_of_rows_is_flat_until_arithmetic_binds():
    config = tiny_decoder().config
    reading = lambda rate: Reading(rate, rate, 0.0)  # noqa: E731
    machine = Hardware("toy", "cpu", 1, {1: reading(1e9)}, {"float32": reading(2e9)})
    tight = limit_costs(config, machine, (1, 2, 4, 8), 16)
    roomy = limit_costs(config, machine, (1, 2, 4, 8), 16, arithmetic=10.0)
    assert tight.r(8) > 2
    assert roomy.relative == pytest.approx((1.0,) * 8)
    assert roomy.seconds <= tight.seconds


# The study


def account_of(outcomes):
    account = Accounting()
    for (sent, accepted), count in outcomes.items():
        for _ in range(count):
            account.note(sent, accepted, accepted + 1, 0.0)
    return account


def test_a_study_foresees_what_then_happens():
    decoder = tiny_decoder(vocab_size=300, max_positions=400)
    tokenizer = Bytes()
    asked = [Task("a", "chat", "banana " * 9), Task("b", "chat", "x" * 390), Task("c", "chat", "?")]
    cases = study.answered(decoder, tokenizer, asked, 24)
    assert [case.task.name for case in cases] == ["a", "c"]  # b does not fit
    assert not study.answered(decoder, tokenizer, asked, 24, stop_ids=range(300))  # too short
    of = study.settings(COSTS, 3)
    runs = study.variants(decoder, cases, of)
    assert list(runs) == [study.PLAIN, "prompt lookup, 3", "suffix index, 3", study.AUTOMATIC]
    for number, case in ((2, cases[0]), (3, cases[1])):
        traces = {name: run(number) for name, run in runs.items()}
        assert {trace.tokens for trace in traces.values()} == {tuple(case.answer)}
    for setting in of.values():
        real = Accounting()
        list(study.speculated(decoder, cases[0], setting, real))
        known = foresight.foreseen(decoder.config, cases[0], setting)
        assert known.account.outcomes == real.outcomes
        cost = sum(count * COSTS.r(sent + 1) for (sent, _), count in real.outcomes.items())
        speedup = known.speedup(foresight.Moment(COSTS))
        assert speedup == pytest.approx(real.tokens / cost)


def test_what_is_expected_of_a_comparison_is_the_median_of_its_rounds_at_their_costs():
    cases = [foresight.Foreseen(account_of({(1, accepted): 1})) for accepted in (0, 1)]
    moments = [foresight.Moment(RowCosts(1.0, (1.0, r))) for r in (2.0, 1.0, 2.0, 4.0)]
    # Rounds 1, 2, 3 ask cases 1, 0, 1: means of 2/2 and 2/1, of 1/1 and 1/2, of 2/2 and 2/4.
    assert foresight.expected(cases, moments) == pytest.approx(0.75)


def test_a_prediction_counts_what_the_head_is_asked():
    found = foresight.Foreseen(account_of({(1, 1): 2}), asked=(2, 3, 10))
    head = study.KeptHead(None, None, {}, [], HeadCost(first=0.1, further=0.05, read=0.01))
    expected = 4 / (2 * COSTS.r(2) + 0.45)
    assert found.speedup(foresight.Moment(COSTS, head)) == pytest.approx(expected)
    assert found.speedup(foresight.Moment(COSTS)) == pytest.approx(2 / COSTS.r(2))


class Bytes:
    chat_template = None

    def encode(self, text):
        return list(text.encode())
