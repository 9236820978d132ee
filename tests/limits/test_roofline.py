"""Limits worked out by hand."""

import math
from dataclasses import replace

import pytest

from labkit.limits.cost import Cost, bytes_of_rows, decode_cost, weight_bytes
from labkit.limits.hardware import Hardware, Reading
from labkit.limits.roofline import Limit, critical_batch, fits, least_seconds, limit
from labkit.model.experts import Experts
from tests.tiny import tiny_decoder


def machine(bandwidth=None, rate=1e9, **more):
    points = {size: Reading(r, r, 0.0) for size, r in (bandwidth or {1: 1e6}).items()}
    return Hardware("m", "cpu", 2, points, {"float32": Reading(rate, rate, 0.0)}, **more)


COST = Cost(6e6, 2e6, 0, 0, matrix_flops=3e9, attention_flops=1e9)


def test_the_slower_of_reading_and_computing_sets_the_limit():
    found = limit(COST, machine())
    assert (found.memory_seconds, found.compute_seconds) == (8.0, 4.0)
    assert (found.seconds, found.bound) == (8.0, "memory")
    assert found.rate(16) == 2.0
    assert limit(COST, machine(rate=2e8)).bound == "compute"


def test_attention_in_another_dtype_adds_its_time_to_that_of_the_products():
    found = machine({1: 1e6}, rate=1e9)
    found.matrix["int8"] = Reading(4e9, 4e9, 0.0, 2e9)
    cost = replace(COST, dtype="int8", weight_bytes=1e3, kv_read_bytes=0)
    assert least_seconds(cost, found, "float32") == 3 / 4 + 1
    assert least_seconds(cost, found) == 4 / 4
    assert least_seconds(replace(cost, weight_bytes=9e6), found, "float32") == 9
    assert least_seconds(cost, found, "float32", slowest=True) == math.inf  # not known
    slow = machine({1: 1e6})
    slow.bandwidth_points[1] = Reading(1e6, 1e6, 0.0, 5e5)
    slow.matrix["int8"] = Reading(4e9, 4e9, 0.0, 2e9)
    slow.matrix["float32"] = Reading(1e9, 1e9, 0.0, 5e8)
    assert least_seconds(cost, slow, "float32", slowest=True) == 3 / 2 + 2


def test_a_probed_bandwidth_replaces_the_kept_one():
    assert limit(COST, machine(), bandwidth=4e6).memory_seconds == 2.0


def test_bandwidth_is_interpolated_over_the_logarithm_of_the_size():
    hardware = machine({2**10: 100.0, 2**20: 50.0})
    assert hardware.bandwidth(1) == 100
    assert hardware.bandwidth(2**15) == pytest.approx(75)
    assert hardware.bandwidth(2**30) == 50


def test_a_missing_rate_falls_back_and_none_at_all_is_no_bound():
    assert machine().rate("int8") == 1e9
    assert Hardware("m", "x", 0, {1: Reading(1, 1, 0)}, {}).rate("float32") == float("inf")


def test_at_the_critical_batch_both_bounds_are_equal():
    config, hardware = tiny_decoder().config, machine()
    batch = critical_batch(config, hardware, "float32")
    one = decode_cost(config, 0)
    assert batch * one.flops / 1e9 == pytest.approx(one.weight_bytes / 1e6)


def test_a_batch_reads_more_of_a_mixture_before_it_computes_longer():
    hardware = machine()
    dense = critical_batch(tiny_decoder().config, hardware, "float32")
    config = tiny_decoder(experts=Experts(64, 2, 80, (0, 1))).config
    batch = critical_batch(config, hardware, "float32")
    one = decode_cost(config, 0)
    expected = bytes_of_rows(config, one.weight_bytes, batch)
    assert batch * one.flops / 1e9 == pytest.approx(expected / 1e6, rel=2e-3)
    assert batch > 2 * dense


def test_fits():
    config = tiny_decoder().config
    need = int(weight_bytes(config))
    assert fits(config, machine(capacity=need), "float32")
    assert not fits(config, machine(capacity=need - 1), "float32")
    assert fits(config, machine(), "float32")  # a capacity that nobody knows refuses nothing


def test_equal_times_count_as_memory_bound():
    assert Limit(1.0, 1.0).bound == "memory"


def test_a_cache_of_unknown_bandwidth_takes_the_limit_of_memory_away():
    printed = machine(cache=8_000_000, source="a datasheet")
    assert limit(COST, printed) == Limit(0.0, 4.0)
    assert limit(COST, printed).bound == "compute"
    assert limit(COST, printed, bandwidth=4e6).memory_seconds == 2.0
    assert limit(COST, machine(cache=7_999_999, source="a datasheet")).bound == "memory"
    assert limit(COST, machine(cache=8_000_000)).bound == "memory"  # it measured its caches


def test_where_nothing_is_known_there_is_no_limit():
    nothing = Hardware("m", "x", 0, {1: Reading(1, 1, 0)}, {}, cache=9_000_000, source="a sheet")
    assert limit(COST, nothing).rate() == float("inf")
