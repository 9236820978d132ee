"""Control and accounting, by hand."""

from __future__ import annotations

import itertools

import pytest

from labkit.engine.control import bucket
from labkit.engine.row_costs import filled
from labkit.optimize.speculative import (
    NOTHING,
    Acceptance,
    Accounting,
    Adaptive,
    Proposal,
    SuffixIndex,
    speculate,
)
from tests.speculative_stubs import COSTS
from tests.tiny import tiny_decoder

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 1, 4, 1]


def outcomes(control, hits, length=4, evidence=3):
    """Drafted tokens of each pass, when the draft is right or wrong as a whole, by script."""
    sent = []
    for hit in hits:
        limit = control.limit()
        proposal = Proposal([1] * min(length, limit), None, evidence) if limit else NOTHING
        sent.append(control.choose(proposal) if limit else 0)
        control.learn(proposal, sent[-1], [1 if hit else 2] * (sent[-1] * hit + 1))
    return sent


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


def test_acceptance_learns_each_outcome_at_its_own_evidence():
    running, by_hand = Acceptance(), Acceptance()
    assert running.learn(Proposal([1, 2, 3], None, 2), [1, 9]) == [True, False]
    by_hand.note(2, True)
    by_hand.note(3, False)
    assert running.rates(0, 9) == by_hand.rates(0, 9) != Acceptance().rates(0, 9)


def test_buckets_widen():
    assert [bucket(m) for m in (0, 1, 4, 5, 7, 8, 15, 16, 31, 32, 63, 64, 999)] == [
        0, 1, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9,
    ]  # fmt: skip


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
