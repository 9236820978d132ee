"""The ceilings of batching, worked out by hand and by looking at every choice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import ParameterError
from labkit.limits import batching
from labkit.limits.cost import decode_cost
from labkit.limits.roofline import critical_batch, limit
from tests.limits.test_roofline import machine
from tests.tiny import CONFIG


def every_batch(lengths: Sequence[int], batch: int) -> list[tuple[int, ...]]:
    return list(itertools.combinations(lengths, batch))


def test_without_context_the_gain_grows_until_computing_takes_as_long_as_reading() -> None:
    hardware = machine()
    edge = critical_batch(CONFIG, hardware, "float32")
    below, above = math.floor(edge), math.ceil(edge)
    found = batching.batch_limits(CONFIG, hardware, [1, below, above, 10 * above], 0)
    assert [one.gain for one in found[:2]] == pytest.approx([1, below], rel=0.01)
    assert [one.limit.bound for one in found] == ["memory", "memory", "compute", "compute"]
    assert found[3].gain == pytest.approx(edge, rel=0.02)  # no gain beyond
    assert found[3].rate == pytest.approx(found[2].rate, rel=1e-6)


def test_keys_and_values_are_read_for_each_request() -> None:
    hardware = machine(rate=1e30)  # nothing but reading counts
    one, eight = batching.batch_limits(CONFIG, hardware, [1, 8], 200)
    a_token, weights = CONFIG.kv_bytes_per_token(4.0), one.cost.weight_bytes
    assert eight.cost.kv_read_bytes == 8 * 200 * a_token
    assert eight.kv_share == pytest.approx(1600 * a_token / (weights + 1600 * a_token))
    expected = 8 * (weights + 200 * a_token) / (weights + 1600 * a_token)
    assert eight.gain == pytest.approx(expected)
    assert one.gain == 1


def test_what_weights_and_cache_really_take_is_counted() -> None:
    hardware = machine(rate=1e30)
    found = batching.batch_limits(
        CONFIG, hardware, [4], 10, weight_bytes=1000.0, kv_bytes_per_token=5.0
    )
    assert found[0].cost.read_bytes == 1000 + 4 * 10 * 5
    assert found[0].cost.kv_write_bytes == 4 * 5
    assert found[0].limit.seconds == pytest.approx(1200 / 1e6)
    assert found[0].gain == pytest.approx(4 * 1050 / 1200)
    plain = batching.batch_limits(CONFIG, hardware, [4], 10)[0]
    assert plain.cost == decode_cost(CONFIG, 10, 4)
    assert plain.limit == limit(plain.cost, hardware)


def test_few_cores_make_the_gain_small() -> None:
    fast = batching.batch_limits(CONFIG, machine(rate=1e12), [64], 16)[0]
    slow = batching.batch_limits(CONFIG, machine(rate=1e5), [64], 16)[0]
    assert slow.gain < 1.1 < fast.gain


def test_the_longest_of_a_batch_over_all_choices() -> None:
    lengths = (3, 1, 4, 1, 5, 9, 2, 6)
    for batch in range(1, 9):
        longest = [max(chosen) for chosen in every_batch(lengths, batch)]
        assert batching.expected_longest(lengths, batch) == pytest.approx(np.mean(longest))
    assert batching.expected_longest([7], 1) == 7


def test_hand_made_efficiencies() -> None:
    assert batching.static_efficiency([1, 3], 2) == pytest.approx(2 / 3)
    assert batching.static_efficiency([5, 5, 5], 2) == 1
    assert batching.static_efficiency([1, 1, 1, 9], 1) == 1
    assert batching.scheduling_gain([1, 3], 2) == pytest.approx(1.5)


@pytest.mark.parametrize("batch", [2, 8, 32])
def test_exponential_lengths_have_an_efficiency_of_one_over_the_harmonic_number(batch: int) -> None:
    lengths = np.ceil(np.random.default_rng(1).exponential(10_000, 20_000)).astype(int).tolist()
    harmonic = sum(1 / k for k in range(1, batch + 1))
    assert batching.static_efficiency(lengths, batch) == pytest.approx(1 / harmonic, rel=0.03)


def test_a_large_list_does_not_overflow() -> None:
    assert batching.expected_longest(range(1, 100_001), 64) == pytest.approx(
        64 * 100_001 / 65  # E[max] of B from 1..n
    )


def cost(rows: int) -> float:
    return 1 + 0.3 * rows + 0.2 * (rows % 3 == 1)


def static_time(chosen: Sequence[int]) -> float:
    return sum(cost(sum(length > done for length in chosen)) for done in range(max(chosen)))


def test_a_static_batch_whose_finished_requests_leave() -> None:
    lengths = (3, 1, 4, 1, 5, 9, 2, 6)
    for batch in range(1, 9):
        times = [static_time(chosen) for chosen in every_batch(lengths, batch)]
        assert batching.expected_static(lengths, batch, cost) == pytest.approx(np.mean(times))


def test_the_gain_with_costs() -> None:
    lengths = (2, 7, 1, 8, 2, 8)
    static = np.mean([static_time(chosen) for chosen in every_batch(lengths, 3)])
    tokens = 3 * np.mean(lengths)
    best = min(cost(rows) / rows for rows in (1, 2, 3))
    assert batching.scheduling_gain(lengths, 3, cost) == pytest.approx(static / tokens / best)
    # Where a pass takes the same whatever its rows, both forms are one; where each row costs the
    # same, there is nothing to gain.
    constant = batching.scheduling_gain(lengths, 3, lambda rows: 5.0)
    assert constant == pytest.approx(batching.scheduling_gain(lengths, 3))
    assert batching.scheduling_gain(lengths, 3, float) == pytest.approx(1)


def test_passes_in_a_given_order() -> None:
    assert batching.static_passes([2, 1, 3], 2) == [2, 1, 1, 1, 1]
    assert batching.in_flight_passes([2, 1, 3], 2) == [2, 2, 1, 1]
    assert batching.finite_gain([2, 1, 3], 2) == 5 / 4
    assert batching.finite_gain([4, 4], 2) == 1
    assert batching.in_flight_passes([1, 5], 4) == [2, 1, 1, 1, 1]


@settings(deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.integers(1, 5))
def test_passes_hold_every_token_and_no_schedule_is_shorter(lengths: list[int], slots: int) -> None:
    static = batching.static_passes(lengths, slots)
    flying = batching.in_flight_passes(lengths, slots)
    assert sum(static) == sum(flying) == sum(lengths)
    assert max([*static, *flying]) <= slots
    assert len(static) == sum(max(lengths[k : k + slots]) for k in range(0, len(lengths), slots))
    least = max(max(lengths), math.ceil(sum(lengths) / slots))
    assert least <= len(flying) <= len(static)


def test_what_is_no_batch_is_refused() -> None:
    with pytest.raises(ParameterError, match="a batch of 3 cannot be chosen from 2 lengths"):
        batching.expected_longest([1, 2], 3)
    for lengths, slots in (([], 1), ([0], 1), ([3], 0)):
        with pytest.raises(ParameterError, match="give lengths of 1 token and more"):
            batching.in_flight_passes(lengths, slots)
    for batches, context in (([], 0), ([0], 0), ([1], -1)):
        with pytest.raises(ParameterError, match="batches"):
            batching.batch_limits(CONFIG, machine(), batches, context)


def test_several_requests_may_read_more_weights_than_one() -> None:
    hardware = machine(rate=1e30)
    found = batching.batch_limits(
        CONFIG, hardware, [1, 4], 10,
        weight_bytes=1000.0, several_weight_bytes=3000.0, kv_bytes_per_token=5.0,
    )  # fmt: skip
    assert [one.cost.weight_bytes for one in found] == [1000, 3000]
    assert found[1].gain == pytest.approx(4 * 1050 / 3200)
