"""What rows cost, and predictions from it, by hand."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.engine.generate import generate
from labkit.engine.row_costs import best_length, filled
from labkit.errors import ModelError
from labkit.limits.hardware import Hardware, Reading
from labkit.optimize.speculative import (
    Accounting,
    RowCosts,
    free_rows,
    limit_costs,
    row_costs,
)
from labkit.optimize.speculative.predict import (
    break_even,
    expected_in_chain,
    expected_tokens,
    mixed_speedup,
    speedup,
)
from tests.speculative_stubs import COSTS
from tests.tiny import tiny_decoder


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
