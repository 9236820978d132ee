"""First tokens with a prefix cache: from memory, from disk, computed, and where they cross."""

from __future__ import annotations

import math

import pytest

from labkit.errors import ParameterError
from labkit.limits.cost import pass_cost
from labkit.limits.prefix import FirstToken, break_even, end_to_end_gain, least_prefill
from labkit.limits.roofline import limit
from tests.limits.test_roofline import machine
from tests.tiny import CONFIG


def linear(before: int, new: int) -> float:
    """100 tokens a second, whatever comes before."""
    return new / 100


def test_the_three_times_by_hand() -> None:
    found = FirstToken(linear, 50.0, disk_bandwidth=10_000.0, disk_seconds=0.5)
    assert found.computed(400, 100) == 5.0
    assert found.in_memory(400, 100) == 1.0
    assert found.from_disk(400, 100) == 1.0 + 0.5 + 2.0
    assert found.from_disk(0, 100) == found.in_memory(0, 100) == found.computed(0, 100)


def test_the_break_even_is_bytes_a_token_times_tokens_a_second() -> None:
    found = FirstToken(linear, 50.0, disk_bandwidth=1.0)
    assert break_even(50.0, 100.0) == 5000.0
    assert found.break_even_bandwidth(400, 100) == pytest.approx(5000.0)
    for bandwidth, pays in ((4999.0, False), (5001.0, True)):
        disk = FirstToken(linear, 50.0, bandwidth)
        assert (disk.from_disk(400, 1) < disk.computed(400, 1)) is pays


def test_a_wait_before_the_first_byte_sets_a_shortest_prefix() -> None:
    # Reading saves 1/100 - 50/10,000 = 5 ms a token; a wait of 0.5 s is worth it above 100 tokens.
    found = FirstToken(linear, 50.0, 10_000.0, disk_seconds=0.5)
    assert found.pays_from(10, range(1, 1000)) == 101
    assert found.pays_from(10, [16, 64, 128, 256]) == 128
    assert found.pays_from(10, [16, 64]) is None
    assert found.break_even_bandwidth(50, 10) == math.inf
    assert FirstToken(linear, 50.0, 4000.0).pays_from(10, range(1, 1000)) is None


def test_from_how_long_a_prefix_the_first_token_comes_many_times_as_soon() -> None:
    found = FirstToken(linear, 50.0, 10_000.0)
    assert found.sooner_from(10, range(0, 1000, 10), 20.0) == 190
    assert found.sooner_from(10, range(0, 100, 10), 20.0) is None


def test_the_limit_of_a_prefill_counts_what_rows_attend_to() -> None:
    hardware = machine(rate=1e6)
    least = least_prefill(CONFIG, hardware)
    assert least(0, 64) == limit(pass_cost(CONFIG, [(0, 64)], 1), hardware).seconds
    assert least(192, 64) > least(0, 64)  # the own rows attend to the prefix
    # Computing a prompt in two parts does the same work, but for the logits of one more row.
    whole, parts = least(0, 256), least(0, 192) + least(192, 64)
    head = 2.0 * CONFIG.vocab_size * CONFIG.hidden_size / 1e6
    assert parts == pytest.approx(whole + head)


def test_with_attention_the_gain_of_memory_grows_with_the_prefix() -> None:
    found = FirstToken(least_prefill(CONFIG, machine(rate=1e6)), 128.0, 1e5)
    gains = [found.computed(n, 16) / found.in_memory(n, 16) for n in (0, 16, 64, 200)]
    assert gains == sorted(gains)
    assert gains[0] == 1


def test_the_gain_of_a_whole_load() -> None:
    assert end_to_end_gain(0.0, 0.9) == 1
    assert end_to_end_gain(0.74, 0.5) == pytest.approx(1 / 0.63)
    assert end_to_end_gain(1.0, 0.5) == 2


def test_impossible_numbers_are_refused() -> None:
    for given in ((0.0, 1.0), (math.nan, 1.0), (1.0, 0.0), (1.0, math.nan), (1.0, 1.0, -1.0)):
        with pytest.raises(ParameterError, match="bytes a token"):
            FirstToken(linear, *given)
    for hit, share in ((-0.1, 0.5), (1.1, 0.5), (0.5, 2.0), (1.0, 1.0), (math.nan, 0.5)):
        with pytest.raises(ParameterError, match="hit rate"):
            end_to_end_gain(hit, share)
