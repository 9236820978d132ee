"""Speculation with the learned head."""

from __future__ import annotations

import pytest

from labkit.engine.draft import Proposal
from labkit.engine.generate import generate
from labkit.errors import ParameterError
from labkit.model.rows import Rows
from labkit.optimize.speculative import (
    Accounting,
    Chooser,
    Fixed,
    LearnedHead,
    PlainHead,
    RowCosts,
    free_rows,
    fused_head,
    head_cost,
    speculate,
)
from labkit.optimize.speculative.head.cost import HeadCost
from labkit.optimize.speculative.head.outcomes import Guess
from labkit.optimize.speculative.head.train import (
    Recipe,
    train,
)
from labkit.optimize.speculative.head.worth import worth_verifying
from labkit.studies.speculative_replay import replay

PROMPT = [5, 60, 33, 2, 41, 7, 7, 19]
COSTS = RowCosts(1.0, (1.0, 1.05, 1.1, 1.2, 1.6, 2.0))


@pytest.mark.parametrize("costs", [None, free_rows(9), RowCosts(1.0, (1.0, 1.2, 1.5, 1.9, 2.5))])
def test_drafts_of_the_head_change_no_answer(fused, head, costs) -> None:
    expected = list(generate(fused, PROMPT, 120))
    draft = LearnedHead(fused_head(head, fused), head.ids, costs, HeadCost(0.1, 0.1))
    assert list(speculate(fused, draft, PROMPT, 120, control=Fixed(4))) == expected
    assert draft.passes > 0
    chooser = Chooser(costs or free_rows(9), draft)
    assert list(speculate(fused, chooser, PROMPT, 120, control=Fixed(4))) == expected


@pytest.mark.parametrize(
    ("chain", "tokens", "parents"),
    [
        # A sure token, then nothing sure: one row.
        ([Guess([7, 8], [0.9, 0.01], [0.9, 0.01]), Guess([4], [0.01], [0.009])], [7], ()),
        # Both passes sure: a chain.
        ([Guess([7, 8], [0.9, 0.0], [0.9, 0.0]), Guess([4], [0.9], [0.8])], [7, 4], ()),
        # Two likely first tokens, and one after the likelier: a tree of three rows.
        (
            [Guess([7, 8, 9], [0.5, 0.3, 0.1], [0.5, 0.3, 0.1]),
             Guess([4, 5, 6], [0.6, 0.2, 0.1], [0.3, 0.1, 0.05])],
            [7, 8, 4], (-1, -1, 0),
        ),
        # No token is worth a row.
        ([Guess([7, 8], [0.02, 0.02], [0.02, 0.02])], [], ()),
    ],
)  # fmt: skip
def test_the_rows_worth_verifying_by_hand(chain, tokens, parents) -> None:
    cost = HeadCost(0.1, 0.1)
    assert worth_verifying(chain, 9, COSTS, cost) == Proposal(tokens, parents=parents)
    assert len(worth_verifying(chain, 1, COSTS, cost).tokens) <= 1


def test_a_head_has_a_gain_before_its_first_request(plain, head) -> None:
    draft = LearnedHead(PlainHead(head, plain), head.ids)
    fresh = draft.gain
    assert fresh > 1
    draft.begin(PROMPT, 40)
    assert draft.gain == fresh
    draft.end(PROMPT)
    draft.end(PROMPT)  # a request that never began leaves no cache
    assert len(draft.spare) == 1


def test_a_head_that_never_gains_is_asked_less_and_less(plain, head) -> None:
    draft = LearnedHead(PlainHead(head, plain), head.ids, COSTS, HeadCost(first=0.5, further=0.5))
    accounting = Accounting()
    list(speculate(plain, draft, PROMPT, 200, control=Fixed(5), accounting=accounting))
    assert draft.gain < 1
    assert draft.passes < 60


def test_of_a_long_prompt_the_head_reads_the_end(fused, head) -> None:
    prompt = [(5 * n * n + n) % 97 for n in range(300)]
    expected = list(generate(fused, prompt, 40))
    native = fused_head(head, fused)
    draft = LearnedHead(native, head.ids)
    assert list(speculate(fused, draft, prompt, 40, control=Fixed(3))) == expected
    ((_, cache),) = draft.spare
    assert cache.length(0) < 128 + 40 + 3


def test_a_later_request_takes_the_cache_that_an_earlier_one_left(fused, head) -> None:
    native, spare = fused_head(head, fused), []
    runs = []
    for length in (60, 60, 20, 80):
        draft, account = LearnedHead(native, head.ids, spare=spare), Accounting()
        list(speculate(fused, draft, PROMPT, length, control=Fixed(3), accounting=account))
        runs.append((account.outcomes, spare[0][1]))
        assert len(spare) == 1
    assert runs[0] == runs[1]  # nothing of the first request is seen by the second
    assert runs[2][1] is runs[0][1] is not runs[3][1]  # which needs a longer one


def test_the_same_over_the_plain_decoder(plain, head) -> None:
    expected = list(generate(plain, PROMPT, 60))
    draft = LearnedHead(PlainHead(head, plain), head.ids)
    assert list(speculate(plain, draft, PROMPT, 60, control=Fixed(3))) == expected


def test_a_replay_with_streams_asks_what_the_run_asked(fused, head) -> None:
    answer = list(generate(fused, PROMPT, 80))
    text = [*PROMPT, *answer]
    _, streams = fused.traced(Rows.prefill(text), fused.new_cache(1, len(text)))
    native = fused_head(head, fused)
    ran, replayed = (LearnedHead(native, head.ids) for _ in range(2))
    real = Accounting()
    list(speculate(fused, ran, PROMPT, 80, control=Fixed(3), accounting=real))
    foreseen = replay(fused.config, replayed, PROMPT, answer, Fixed(3), streams=streams)
    assert foreseen.outcomes == real.outcomes
    assert replayed.passes == ran.passes
    with pytest.raises(ParameterError, match="the replay has none"):
        replay(fused.config, LearnedHead(native, head.ids), PROMPT, answer, Fixed(3))


def test_a_head_that_knows_the_answers_foresees_them(fused, plain, texts) -> None:
    """Trained to overfit a handful of texts. At 8 bits, for so small a head loses much at 4."""
    recipe = Recipe(steps=200, words=97, length=40, texts=4, own=0.0, rate=3e-3)
    head, _ = train(plain, texts[:4], recipe)
    native = fused_head(head, fused, "q8_0")
    accepted = proposed = 0
    for text in texts[:4]:
        ids = text.tokens.tolist()
        _, streams = fused.traced(Rows.prefill(ids), fused.new_cache(1, len(ids)))
        draft = LearnedHead(native, head.ids)
        account = replay(fused.config, draft, ids[:12], ids[12:], Fixed(2), streams=streams)
        accepted, proposed = accepted + account.accepted, proposed + account.proposed
    assert accepted > 0.5 * proposed


def test_what_a_head_costs_is_told_in_passes_of_the_target(fused, head) -> None:
    native = fused_head(head, fused)
    cost = head_cost(native, fused, RowCosts(1e-3, (1.0, 1.1)), context=20, repeats=3)
    assert cost.first > 0 <= min(cost)
    draft = LearnedHead(native, head.ids, free_rows(6), cost)
    list(speculate(fused, draft, PROMPT, 40, control=Fixed(5)))
    assert draft.caught_up >= len(PROMPT) - 1
    first, further, read = draft.asked
    assert 0 < first <= first + further == draft.passes
    assert read == draft.caught_up
