"""The order of turns, paired rounds, the control, the bare read, and Ctrl-C."""

import itertools
import math

import numpy as np
import pytest

from labkit.errors import ImpossibleRate, LabkitError
from labkit.timing.compare import Bare, again, compare, turn_order
from labkit.timing.statistics import geometric_mean
from labkit.timing.trace import Trace


def constant(seconds, seen=None, name=""):
    """A variant whose tokens take `seconds` each by its own timestamps."""

    def run(number):
        if seen is not None:
            seen.append((number, name))
        return Trace(0.0, (seconds, 2 * seconds, 3 * seconds), 8)

    return run


def test_each_round_runs_each_variant_once_and_the_baseline_twice():
    seen = []
    variants = {name: constant(1.0, seen, name) for name in ("a", "b", "c")}
    result = compare(variants, "a", rounds=6)
    first, rounds = seen[:3], seen[3:]
    assert [number for number, _ in first] == [0, 0, 0]
    for number, group in itertools.groupby(rounds, key=lambda entry: entry[0]):
        assert sorted(name for _, name in group) == ["a", "a", "b", "c"], number
    assert result.rounds == 6
    assert set(result.traces) == {"a", "b", "c", again("a")}


def test_the_order_changes_so_that_none_is_always_first():
    names = ["a", "b", "c", "d"]
    orders = [tuple(turn_order(names, number)) for number in range(8)]
    assert {o[0] for o in orders} == set(names)
    assert {o[-1] for o in orders} == set(names)
    assert all(sorted(o) == names for o in orders)
    for place in range(4):
        assert len({o[place] for o in orders}) >= 3


def noisy(middle, seed, spread=0.02):
    """A variant whose tokens take `middle` seconds with a noise of `spread`, by the round."""
    rng = np.random.default_rng(seed)
    return lambda _: constant(middle * math.exp(rng.normal(0, spread)))(0)


def test_speedup_verdict_and_first_call():
    variants = {"slow": noisy(0.2, 1), "fast": noisy(0.1, 2), "same": noisy(0.2, 3)}
    result = compare(variants, "slow", rounds=8)
    assert result.speedup("fast").value == pytest.approx(2.0, rel=0.05)
    assert result.verdicts() == {"fast": "faster", "same": "inconclusive"}
    assert set(result.first) == {"slow", "fast", "same"}


def test_value_and_speedup_are_one_estimate():
    result = compare({"a": noisy(1.0, 1, 0.5), "b": noisy(0.7, 2, 0.5)}, "a", rounds=7)
    assert result.mean("a") / result.mean("b") == pytest.approx(result.speedup("b").value)


def test_a_control_that_differs_silences_every_verdict():
    result = compare({"a": noisy(0.1, 1), "b": noisy(0.05, 2)}, "a", rounds=5)
    assert result.verdicts() == {"b": "faster"}
    result.traces[result.control] = [constant(0.2)(i) for i in range(5)]
    assert not result.trusted()
    assert result.verdicts() == {"b": "inconclusive"}


def test_a_control_wider_than_the_effect_silences_it():
    result = compare({"a": noisy(1.0, 1, 0.0), "b": noisy(0.9, 2, 0.0)}, "a", rounds=6)
    assert result.verdicts() == {"b": "faster"}
    wide = [0.7, 1.4, 0.7, 1.4, 0.8, 1.3]  # no difference on average, and it could hide one
    result.traces[result.control] = [constant(t)(0) for t in wide]
    assert result.trusted()
    assert result.verdicts() == {"b": "inconclusive"}


@pytest.mark.parametrize("when", [0, 3])
def test_a_turn_that_took_no_time_stops_the_comparison(when):
    """Also of a variant whose cost nobody knows."""

    def standing(number):
        return Trace(5.0, (5.0, 5.0) if number == when else (6.0, 7.0), 8)

    with pytest.raises(ImpossibleRate, match="b was measured to take 0 s: the clock stood still"):
        compare({"a": lambda number: Trace(0.0, (1.0, 2.0), 8), "b": standing}, "a", rounds=5)


def test_verdicts_are_corrected_together():
    rng = np.random.default_rng(6)
    names = [f"v{i}" for i in range(20)]
    wrong = 0
    for _ in range(10):
        variants = {n: noisy(1.0, int(rng.integers(1 << 30))) for n in ["base", *names]}
        found = compare(variants, "base", rounds=6).verdicts()
        wrong += any(verdict != "inconclusive" for verdict in found.values())
    assert wrong <= 2


def test_the_share_of_the_bare_read_is_paired():
    bare = {("a", "tpot"): Bare("read", 2.0)}

    def drifting(factor):
        return lambda number: constant(factor * number)(number) if number else constant(1.0)(0)

    result = compare({"a": drifting(1.0), "read": drifting(0.3)}, "a", 6, bare)
    share = result.share("a")
    assert share.value == pytest.approx(0.6)  # two repetitions of 0.3
    assert share.low == pytest.approx(share.high)
    assert result.share(result.control).value == pytest.approx(0.6)
    assert result.share("a", "ttft") is None
    assert result.variants == ["a"]


def test_a_bare_read_that_failed_leaves_no_share():
    def failing(number):
        raise LabkitError("no memory")

    bare = {("a", "tpot"): Bare("read", 1.0)}
    result = compare({"a": constant(1.0), "read": failing}, "a", 5, bare)
    assert result.share("a") is None
    assert result.failed == {"read": "no memory"}


@pytest.mark.parametrize("name", ["a", "b"])
def test_an_impossible_rate_stops_the_comparison(name):
    def impossible(number):
        raise ImpossibleRate("a clock that does not wait")

    with pytest.raises(ImpossibleRate):
        compare({"a": constant(1.0), "b": constant(1.0), name: impossible}, "a", 5)


def test_between_is_called_around_every_round():
    seen = []
    compare({"a": constant(1.0, seen, "a")}, "a", 5, between=lambda: seen.append("between"))
    assert [i for i, entry in enumerate(seen) if entry == "between"] == [1, 4, 7, 10, 13, 16]


def test_ctrl_c_keeps_the_rounds_that_are_complete():
    def interrupting(number):
        if number == 7:
            raise KeyboardInterrupt
        return constant(1.0)(number)

    result = compare({"a": interrupting, "b": constant(0.5)}, "a", rounds=20)
    assert result.interrupted
    assert result.rounds == 6
    assert {len(traces) for traces in result.traces.values()} == {6}


def test_ctrl_c_before_there_is_enough_stops():
    def interrupting(number):
        if number == 2:
            raise KeyboardInterrupt
        return constant(1.0)(number)

    with pytest.raises(KeyboardInterrupt):
        compare({"a": interrupting}, "a", rounds=20)


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="not among"):
        compare({"a": constant(1.0)}, "b")
    with pytest.raises(ValueError, match="too few"):
        compare({"a": constant(1.0)}, "a", rounds=2)
    with pytest.raises(ValueError, match="second turn"):
        compare({"a": constant(1.0), again("a"): constant(1.0)}, "a")


def test_a_metric_that_is_undefined_says_so():
    result = compare({"a": lambda number: Trace(0.0, (1.0,))}, "a", rounds=5)
    with pytest.raises(ValueError, match="not defined"):
        result.values("a", "tpot")
    assert result.mean("a", "ttft") == 1.0


@pytest.mark.parametrize("when", [0, 3])
def test_a_variant_that_fails_drops_out_and_is_told(when):
    def failing(number):
        if number == when:
            raise LabkitError("it crashed")
        return constant(0.5)(number)

    variants = {"a": constant(1.0), "bad": failing, "c": constant(0.5)}
    result = compare(variants, "a", 5)
    assert result.failed == {"bad": "it crashed"}
    assert set(result.traces) == {"a", "c", again("a")}
    assert {len(traces) for traces in result.traces.values()} == {5}


def test_a_baseline_that_fails_ends_the_comparison():
    def failing(number):
        raise LabkitError("it crashed")

    with pytest.raises(LabkitError, match="crashed"):
        compare({"a": failing, "b": constant(1.0)}, "a", 5)


def test_a_rounds_baseline_is_the_mean_of_its_two_turns():
    result = compare({"a": constant(0.1), "b": constant(0.1)}, "a", rounds=5)
    result.traces[result.control] = [constant(0.4)(i) for i in range(5)]
    assert result.mean("a") == pytest.approx(0.2)  # the geometric mean
    assert result.speedup("b").value == pytest.approx(2.0)
    assert result.speedup(result.control).value == pytest.approx(1 / 4)
    assert result.speedup("a").value == 1.0


def drifting(first, second):
    """A baseline whose second turn of a round takes other seconds than its first."""
    turns = iter([first, *[first, second] * 5])  # the first call, then two turns a round
    return lambda number: constant(next(turns))(number)


def in_turn(names, _):
    """The turns of each round in the same order: the control is always the second."""
    return list(names)


@pytest.mark.parametrize("second", [0.1, 0.4])
def test_value_and_speedup_are_one_estimate_of_every_row(second, monkeypatch):
    """Of the control too, whose first turn took another time than its second."""
    monkeypatch.setattr("labkit.timing.compare.turn_order", in_turn)
    result = compare({"a": drifting(0.2, second), "b": noisy(0.1, 2)}, "a", rounds=5)
    for name in ("a", "b", result.control):
        ratio, base = result.speedup(name), result.base(name)
        assert ratio.value == pytest.approx(geometric_mean(base) / result.mean(name)), name
        pairs = zip(base, result.values(name), strict=True)
        assert list(ratio.rounds) == pytest.approx([one / other for one, other in pairs]), name
        assert ratio.low <= ratio.value <= ratio.high
    assert result.base("a") == result.base("b") == result.values("a")


def test_the_control_is_one_turn_against_one_turn(monkeypatch):
    monkeypatch.setattr("labkit.timing.compare.turn_order", in_turn)
    result = compare({"a": drifting(0.2, 0.1)}, "a", rounds=5)
    assert result.base(result.control) == pytest.approx([0.2] * 5)
    assert result.speedup(result.control).value == pytest.approx(2.0)  # and not its root
    assert not result.trusted()


def test_the_speedup_of_beginnings():
    def slow(number):
        return Trace(0.0, (1.0, 2.0, 3.0, 4.0))

    def late(number):  # as slow at first, three times as fast later
        return Trace(0.0, (1.0, 2.0, 2.2, 2.4))

    found = compare({"slow": slow, "late": late}, "slow", rounds=5)
    assert found.until(2).speedup("late").value == pytest.approx(1.0)
    assert found.until(4).speedup("late").value == pytest.approx(3 / 1.4)
    assert found.until(9).speedup("late") == found.speedup("late")
    assert found.rounds == found.until(2).rounds == 5
