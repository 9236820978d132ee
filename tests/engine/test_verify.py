"""The rules by hand and by chi-square: what is accepted follows the target, whatever the draft."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare

from labkit.engine.draft import NOTHING, Draft, Proposal
from labkit.engine.row_costs import filled
from labkit.engine.speculate import speculate
from labkit.engine.verify import (
    accept_drawn,
    accept_greedy,
    accept_sampled,
    rejection_rule,
    verifier,
)
from labkit.model.sampling import Sampler, greedy, likeliest, target_probs
from labkit.optimize.speculative import Adaptive, Fixed, ModelDraft, PromptLookup, SuffixIndex
from tests.speculative_stubs import Markov, markov_logits
from tests.tiny import CONFIG

DRAWS = 100_000
VOCAB = 6
LOWEST = 1e-4  # of the p-value: seeds are fixed, so a test passes always or never


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_follows(counts, expected):
    """The counts follow the probabilities `expected`, and never fall where they are nothing."""
    counts, expected = counts.double(), expected.double()
    possible = expected > 0
    assert counts[~possible].sum() == 0
    if possible.sum() < 2 or counts.sum() == 0:
        return
    expected = expected[possible] / expected[possible].sum() * counts.sum()
    assert chisquare(counts[possible].numpy(), expected.numpy()).pvalue > LOWEST


@pytest.mark.parametrize(
    ("best", "drafted", "expected"),
    [
        ([3], [], [3]),
        ([3, 1, 2], [3, 1], [3, 1, 2]),
        ([3, 1, 2], [3, 0], [3, 1]),
        ([3, 1, 2], [0, 1], [3]),
        ([3, 1, 2], [4, 4], [3]),
    ],
)
def test_greedy_by_hand(best, drafted, expected):
    assert accept_greedy(best, Proposal(drafted)) == expected


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        ([3, 0, 0, 0, 0], [3, 0]),  # the second of two first tokens, then nothing foreseen
        ([1, 2, 0, 5, 4], [1, 2, 5]),  # the first, then its second child
        ([1, 4, 0, 0, 0], [1, 4]),
        ([5, 0, 0, 0, 0], [5]),
    ],
)
def test_greedy_through_a_tree_by_hand(best, expected):
    tree = Proposal([1, 3, 2, 0], parents=(-1, -1, 0, 0))
    assert accept_greedy(best, tree) == expected


def test_what_a_proposal_foresaw():
    tree = Proposal([1, 3, 2, 0], parents=(-1, -1, 0, 0))
    assert tree.rows_of([1, 0, 9]) == [0, 1, 4]
    assert tree.rows_of([3, 0]) == [0, 2]
    assert tree.outcomes([1, 0, 9]) == [True, True]  # nothing was foreseen after these
    assert tree.outcomes([1, 9]) == [True, False]
    assert tree.outcomes([1]) == [True]
    assert tree.cut(2) == Proposal([1, 3], parents=(-1, -1))
    chain = Proposal([4, 5], evidence=3)
    assert chain.outcomes([4, 6, 7]) == [True, False]
    assert chain.outcomes([4, 5, 6]) == [True, True]
    assert chain.cut(1) == Proposal([4], evidence=3)
    assert NOTHING.outcomes([4]) == []


def test_drawing_by_hand():
    drawn = iter([2, 5, 1])
    assert accept_drawn(torch.zeros(4, VOCAB), Proposal([2, 4, 1]), lambda _: next(drawn)) == [2, 5]
    assert next(drawn) == 1  # and no random number more


def test_the_rejection_rule_by_hand():
    target = torch.tensor([[0.5, 0.3, 0.2, 0.0]] * 2)[None].expand(DRAWS, -1, -1)
    draft = torch.tensor([[0.25, 0.25, 0.25, 0.25]])[None].expand(DRAWS, -1, -1)
    stands = {0: 1.0, 1: 1.0, 2: 0.8, 3: 0.0}  # min(1, target / draft)
    left = torch.tensor([0.25, 0.05, 0.0, 0.0])  # max(0, target - draft)
    for token, chance in stands.items():
        drafted = torch.full((DRAWS, 1), token)
        accepted, after = rejection_rule(target, draft, drafted, generator(token))
        assert float(accepted.float().mean()) == pytest.approx(chance, abs=0.005)
        assert_follows(after[accepted == 1].bincount(minlength=4), target[0, 1])
        assert_follows(after[accepted == 0].bincount(minlength=4), left)


def chains(target, draft_of, length, seed):
    """Tokens (DRAWS, length + 1) that DRAWS chains give from token 0; -1 after the last."""
    source = generator(seed)
    last, drafted, probs = torch.zeros(DRAWS, dtype=torch.int64), [], []
    for _ in range(length):
        probs.append(draft_of[last])
        last = torch.multinomial(probs[-1], 1, generator=source)[:, 0]
        drafted.append(last)
    tokens = torch.stack(drafted, 1)
    before = torch.cat((torch.zeros(DRAWS, 1, dtype=torch.int64), tokens), 1)
    accepted, after = rejection_rule(target[before], torch.stack(probs, 1), tokens, source)
    out = torch.cat((tokens, torch.full((DRAWS, 1), -1)), 1)
    out[torch.arange(length + 1) > accepted[:, None]] = -1
    return out.scatter(1, accepted[:, None], after[:, None])


def point_mass(best):
    return torch.nn.functional.one_hot(best, VOCAB).float()


DRAFTS = {
    "near": lambda target: target_probs(markov_logits(VOCAB) + 0.5 * markov_logits(VOCAB, 1)),
    "far": lambda target: target_probs(markov_logits(VOCAB, 2)),
    "the target": lambda target: target,
    "likeliest": lambda target: point_mass(target.argmax(-1)),
    "least likely": lambda target: point_mass(target.argmin(-1)),
    "one token": lambda target: point_mass(torch.full((VOCAB,), 4)),
}


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("settings", [(1.0, 0, 1.0), (0.7, 4, 0.9)], ids=["plain", "cut"])
def test_100000_chains_follow_the_target(draft, settings):
    target = target_probs(markov_logits(VOCAB), *settings)
    found = chains(target, DRAFTS[draft](target), 2, seed=11)
    assert_follows(found[:, 0].bincount(minlength=VOCAB), target[0])
    second = found[found[:, 1] >= 0]  # given the first, the second follows its row
    for first in range(VOCAB):
        of_first = second[second[:, 0] == first, 1]
        if len(of_first) > 500:
            assert_follows(of_first.bincount(minlength=VOCAB), target[first])


def test_a_draft_equal_to_the_target_is_always_accepted():
    target = target_probs(markov_logits(VOCAB))
    assert (chains(target, target, 3, seed=5)[:, 3] >= 0).all()


def test_a_point_mass_is_accepted_with_the_targets_probability():
    target = target_probs(markov_logits(VOCAB))
    found = chains(target, point_mass(torch.full((VOCAB,), 4)), 1, seed=5)
    share = float((found[:, 0] == 4).float().mean())
    assert share == pytest.approx(float(target[0, 4]), abs=0.005)


def models():
    config = replace(CONFIG, vocab_size=VOCAB, max_positions=10**6, layers=1, kv_heads=1)
    near = Markov(markov_logits(VOCAB) + 0.5 * markov_logits(VOCAB, 1), config)
    return Markov(markov_logits(VOCAB), config), near


class EveryToken(Draft):
    """A tree of three first tokens and two after each."""

    name = "tree"

    def propose(self, context, limit):
        return Proposal([0, 1, 2, 0, 1, 3, 4, 5, 0], parents=(-1, -1, -1, 0, 0, 1, 1, 2, 2))


SOURCES = {
    "tree": lambda near: EveryToken(),
    "lookup": lambda near: PromptLookup(),
    "suffix": lambda near: SuffixIndex(),
    "model": lambda near: ModelDraft(near),
    "drawing model": lambda near: ModelDraft(near, Sampler(0.8, top_k=5, seed=2)),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "adaptive"])
def test_streams_follow_the_target(source, fixed):
    target, near = models()
    costs = filled(1.0, {1: 1.0, 5: 1.6})
    control = (
        Fixed(9 if source == "tree" else 3)
        if fixed
        else Adaptive(costs, 0.1 * source.endswith("model"))
    )
    sampler = Sampler(0.8, top_k=5, top_p=0.95, seed=4)
    stream = speculate(target, SOURCES[source](near), [0], 3000, sampler=sampler, control=control)
    tokens = [0, *stream]
    probs = target_probs(target.logits, 0.8, 5, 0.95)
    pairs = Counter(itertools.pairwise(tokens))
    for first in range(VOCAB):
        counts = torch.tensor([pairs[first, second] for second in range(VOCAB)])
        if counts.sum() > 200:
            assert_follows(counts, probs[first])


def test_the_rule_that_a_sampler_gets():
    logits, point = markov_logits(VOCAB)[:3], Proposal([1, 2])
    drawn = Proposal([1, 2], target_probs(markov_logits(VOCAB, 3)[:2]))
    best = accept_greedy(likeliest(logits), point)
    assert verifier(greedy)(logits, point) == best
    assert verifier(Sampler(0.0))(logits, drawn) == best
    for seed in range(20):
        of = lambda: Sampler(1.0, seed=seed)  # noqa: B023, E731
        assert verifier(of())(logits, point) == accept_drawn(logits, point, of())
        assert verifier(of())(logits, drawn) == accept_sampled(logits, drawn, of())
        assert verifier(of())(logits[:1], NOTHING) == [of()(logits[0])]
