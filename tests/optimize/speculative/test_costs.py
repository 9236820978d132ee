"""What rows cost, and predictions from it, by hand."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.engine.generate import generate
from labkit.engine.row_costs import best_length, filled
from labkit.errors import ModelError, ParameterError
from labkit.limits.cost import Cost, pass_cost
from labkit.limits.hardware import Hardware, Reading
from labkit.optimize.speculative import (
    Accounting,
    RowCosts,
    free_rows,
    limit_costs,
    row_costs,
)
from labkit.optimize.speculative.predict import (
    acceptance_for,
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


def test_break_even_by_the_time_of_the_rows():
    assert acceptance_for(1.3, 1) == pytest.approx(0.3)
    assert acceptance_for(0.9, 1) == pytest.approx(0.0, abs=1e-9)
    assert acceptance_for(2.0, 1) == float("inf")


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
    looked = []
    costs = row_costs(Noting(), (2, 4), 20, 3, text, lambda: looked.append(1))
    said = [*text[:20], *generate(decoder, text[:20], 7)]
    assert passes[:7] == [(20, 1, 0), *((1, 1, start) for start in range(20, 26))]
    # A first round that warms up, and three more; of each size passes one after another, of which
    # some let the machine settle: how many, their time decides.
    turns = [(turn, len(list(same))) for turn, same in itertools.groupby(passes[7:])]
    sizes = [(k, k, start) for start in (23, 22, 21, 20) for k in (1, 2, 4)]
    assert sorted(turn for turn, _ in turns) == sorted(sizes)
    assert {start for (_, _, start), _ in turns[:3]} == {23}
    assert all(1 + 3 <= count <= 16 + 3 for _, count in turns)
    assert len(looked) == 4
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


def test_row_costs_are_paired_and_have_an_interval(monkeypatch):
    """A clock on which a pass of k rows takes k times the moment's speed, which changes between
    rounds: the ratios do not see it."""
    speed, now, decoder = [1.0], [0.0], tiny_decoder()

    def clock():
        return now[0]

    class Slow:
        config, new_cache = decoder.config, decoder.new_cache

        def __call__(self, rows, cache):
            now[0] += speed[0] * len(rows)
            return decoder(rows, cache)

    def other_work():
        speed[0] = 3.0 if speed[0] == 1.0 else 1.0

    monkeypatch.setattr("labkit.optimize.speculative.costs.time.perf_counter", clock)
    costs = row_costs(Slow(), (1, 2, 4), context=8, rounds=4, between=other_work)
    assert costs.measured[4].rounds == pytest.approx((4.0,) * 4)
    assert (costs.measured[2].low, costs.measured[2].high) == pytest.approx((2.0, 2.0))
    assert costs.r(3) == pytest.approx(3.0)
    assert costs.seconds == pytest.approx(3**0.5)
    with pytest.raises(ParameterError, match="at least 2"):
        row_costs(decoder, rounds=1)


def toy(**rates):
    """A machine that reads 1e9 bytes/s, with these rates."""
    reading = lambda rate: Reading(rate, rate, 0.0, rate)  # noqa: E731
    return Hardware("toy", "cpu", 1, {1: reading(1e9)}, {d: reading(r) for d, r in rates.items()})


def test_the_limit_of_rows_is_flat_until_arithmetic_binds():
    config = tiny_decoder().config

    def cost(rows):
        return pass_cost(config, [(16, rows)], rows)

    tight = limit_costs(cost, toy(float32=2e9), (1, 2, 4, 8), 16)
    roomy = limit_costs(cost, toy(float32=2e10), (1, 2, 4, 8), 16)
    assert tight.r(8) > 2
    assert roomy.relative == pytest.approx((1.0,) * 8)
    assert roomy.seconds <= tight.seconds
    assert tight.measured == {}


def test_int8_rows_are_charged_at_the_int8_rate_and_attention_at_its_own():
    """By hand: 1e6 bytes take 1 ms; a row takes 1e6 int8 operations and 1e5 of attention."""

    def cost(rows, dtype="int8"):
        return Cost(1e6, 0.0, 0.0, 0.0, 1e6 * rows, 1e5 * rows, dtype)

    machine = toy(int8=4e9, float32=1e9)
    found = limit_costs(cost, machine, (1, 4, 8), 0, "float32")
    assert found.seconds == pytest.approx(1e-3)  # 0.25 + 0.1 ms of arithmetic
    assert found.r(4) == pytest.approx(4 * 0.35)
    assert found.r(8) == pytest.approx(8 * 0.35)
    # The float32 rate for everything, as a float32 kernel has it, makes rows dear from the second.
    float32 = limit_costs(lambda rows: cost(rows, "float32"), machine, (1, 4))
    assert float32.seconds == pytest.approx(1.1e-3)
    assert float32.r(4) == pytest.approx(4.0)
