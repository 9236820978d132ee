"""On the real model: what speculation draws has the target's own distribution."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from scipy import stats

from labkit.engine.generate import generate
from labkit.model.rows import Rows
from labkit.model.sampling import Sampler
from labkit.optimize import fused
from labkit.optimize.speculative import Draft, Fixed, ModelDraft, Proposal, speculate
from labkit.workload.prompts import prompt_ids

DRAWS, KEPT = 160, 4
pytestmark = pytest.mark.model


class Guess(Draft):
    """Always the same token, with all its probability on it."""

    name = "guess"

    def __init__(self, token: int) -> None:
        self.token = token

    def propose(self, context, limit) -> Proposal:
        return Proposal([self.token])


@pytest.fixture(scope="module")
def target(real_model) -> fused.FusedDecoder:
    if reason := fused.available():
        pytest.skip(reason)
    return fused.load_fused()


@pytest.fixture(scope="module")
def prompt(real_model) -> list[int]:
    return prompt_ids(real_model.tokenizer, 6, number=3)


def probs(target, ids) -> dict[int, float]:
    logits = target(Rows.prefill(ids), target.new_cache(1, len(ids)))
    found = Sampler(1.0, top_k=KEPT).probs(logits)[0]
    return {int(token): float(found[token]) for token in found.nonzero()[:, 0]}


def marginals(target, prompt) -> tuple[dict[int, float], dict[int, float]]:
    """Of the first token, and of the second whatever the first was."""
    first, second = probs(target, prompt), Counter()
    for token, chance in first.items():
        for after, then in probs(target, [*prompt, token]).items():
            second[after] += chance * then
    return first, dict(second)


def follows(drawn: list[int], expected: dict[int, float]) -> float:
    """p of a chi-square test; tokens expected less than five times are counted together."""
    assert set(drawn) <= set(expected)
    counts, common = Counter(drawn), [t for t, p in expected.items() if p * len(drawn) >= 5]
    seen = [counts[t] for t in common]
    hoped = [expected[t] * len(drawn) for t in common]
    if (rest := len(drawn) - sum(hoped)) > 1e-6:
        seen, hoped = [*seen, len(drawn) - sum(seen)], [*hoped, rest]
    return float(stats.chisquare(seen, [h * sum(seen) / sum(hoped) for h in hoped]).pvalue)


@pytest.mark.parametrize("kind", ["guess", "model"])
def test_first_and_second_token_follow_the_target(target, prompt, kind) -> None:
    torch.set_num_threads(2)
    first, second = marginals(target, prompt)
    likely = max(second, key=lambda token: second[token])
    model = ModelDraft(target, Sampler(2.0, top_k=2 * KEPT, seed=77))
    draft = Guess(likely) if kind == "guess" else model
    drawn = []
    for seed in range(DRAWS):
        sampler = Sampler(1.0, top_k=KEPT, seed=seed)
        drawn.append(
            list(speculate(target, draft, prompt, 3, sampler=sampler, control=Fixed(1)))[:2]
        )
    assert follows([pair[0] for pair in drawn], first) > 1e-3
    assert follows([pair[1] for pair in drawn], second) > 1e-3


def test_without_a_draft_the_same_test_holds_and_can_fail(target, prompt) -> None:
    first, second = marginals(target, prompt)
    drawn = [
        list(generate(target, prompt, 2, sampler=Sampler(1.0, top_k=KEPT, seed=seed)))
        for seed in range(DRAWS)
    ]
    assert follows([pair[1] for pair in drawn], second) > 1e-3
    rarest = min(first, key=lambda token: first[token])
    biased = [rarest if n % 4 == 0 else pair[0] for n, pair in enumerate(drawn)]
    assert follows(biased, first) < 1e-3


@pytest.mark.parametrize("spoiled", [False, True])
def test_the_proof_holds_and_can_fail(target, monkeypatch, spoiled) -> None:
    from click.testing import CliRunner

    from labkit.engine.row_costs import RowCosts
    from labkit.studies import speculative_proof as proof
    from labkit.workload.tasks import tasks

    monkeypatch.setattr(proof, "tasks", lambda: tasks(("extraction",))[:2])
    costs = RowCosts(1.0, (1.0, 1.1, 1.2, 1.3))
    monkeypatch.setattr(proof, "costs_of", lambda loaded, target: costs)
    if spoiled:
        real = proof.speculated
        monkeypatch.setattr(proof, "speculated", lambda *of: [*real(*of)][:-1])
    done = CliRunner().invoke(proof.main, ["--new-tokens", "12", "--outside", "1"])
    assert done.exit_code == spoiled
    assert "3 of 3 tasks fit" in done.output
    assert ("answers that differ: 0" in done.output) == (not spoiled)
