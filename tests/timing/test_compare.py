"""The order of turns, paired rounds, the control, the probe, and Ctrl-C."""

import itertools

import pytest

from labkit.errors import LabkitError
from labkit.timing.compare import again, compare, turn_order
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


def test_speedup_verdict_and_first_call():
    result = compare({"slow": constant(0.2), "fast": constant(0.1)}, "slow", rounds=5)
    assert result.speedup("fast").value == pytest.approx(2.0)
    assert result.verdict("fast") == "faster"
    assert result.verdict(result.control) == "inconclusive"
    assert set(result.first) == {"slow", "fast"}


def test_a_control_that_differs_silences_every_verdict():
    result = compare({"a": constant(0.1), "b": constant(0.05)}, "a", rounds=5)
    assert result.verdict("b") == "faster"
    result.traces[result.control] = [constant(0.2)(i) for i in range(5)]
    assert not result.trusted()
    assert result.verdict("b") == "inconclusive"


def test_fractions_pair_each_round_with_its_own_bandwidth():
    rates = itertools.cycle([10.0, 11.0, 12.0])
    result = compare({"a": constant(1.0)}, "a", rounds=5, probe=lambda: next(rates))
    fractions = result.fractions("a", lambda bandwidth: 5.0 / bandwidth)
    assert fractions == pytest.approx([5.0 / b for b in result.bandwidth["a"]])
    assert len(set(result.bandwidth["a"])) > 1


def test_a_round_in_which_the_memory_changed_tells_no_fraction():
    answers = iter([10.0] * 4 + [20.0] * 11)  # it doubles during the first turn of the second round
    result = compare({"a": constant(1.0)}, "a", rounds=5, probe=lambda: next(answers))
    first, other = turn_order(["a", again("a")], 2)
    assert result.unsteady(first) == [1]
    assert result.unsteady(other) == []
    assert result.fractions(first, lambda b: 5.0 / b) == pytest.approx([0.5, 0.25, 0.25, 0.25])
    assert result.fractions(other, lambda b: 5.0 / b) == pytest.approx([0.5] + [0.25] * 4)
    assert len(result.values(first)) == 5  # its times stay


def test_where_hardly_a_round_was_steady_all_tell():
    answers = itertools.cycle([10.0, 20.0, 10.0])
    result = compare({"a": constant(1.0)}, "a", rounds=5, probe=lambda: next(answers))
    assert result.unsteady("a") == [0, 1, 2, 3, 4]
    assert result.fractions("a", lambda b: 5.0 / b) == pytest.approx([0.25] * 5)


def test_a_fraction_above_one_is_never_silent(capsys):
    result = compare({"a": constant(1.0)}, "a", rounds=5, probe=lambda: 1.0)
    result.fractions("a", lambda _: 0.99)
    assert capsys.readouterr().err.count("DEFECT") == 0
    result.fractions("a", lambda _: 1.25)
    assert "DEFECT: a (tpot) reaches 1.25 of its limit" in capsys.readouterr().err


def test_the_higher_of_the_two_probes_around_a_turn_counts():
    answers = iter([30.0, 10.0, 20.0] * 5)
    result = compare({"a": constant(1.0)}, "a", rounds=5, probe=lambda: next(answers))
    for number in range(5):
        firsts = "a" if turn_order(["a", again("a")], number + 1)[0] == "a" else again("a")
        second = again("a") if firsts == "a" else "a"
        assert result.bandwidth[firsts][number] == 30.0
        assert result.bandwidth[second][number] == 20.0


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


def test_a_metric_that_is_undefined_says_so():
    result = compare({"a": lambda number: Trace(0.0, (1.0,))}, "a", rounds=5)
    with pytest.raises(ValueError, match="not defined"):
        result.values("a", "tpot")
    assert result.median("a", "ttft") == 1.0


def test_each_variant_may_have_a_probe_of_its_own():
    variants = {"a": constant(1.0), "b": constant(0.5)}
    result = compare(variants, "a", 5, probe={"a": lambda: 10.0, "b": lambda: 30.0})
    assert result.bandwidth == {"a": [10.0] * 5, "b": [30.0] * 5, again("a"): [10.0] * 5}


@pytest.mark.parametrize("when", [0, 3])
def test_a_variant_that_fails_drops_out_and_is_told(when):
    def failing(number):
        if number == when:
            raise LabkitError("it crashed")
        return constant(0.5)(number)

    variants = {"a": constant(1.0), "bad": failing, "c": constant(0.5)}
    result = compare(variants, "a", 5, probe=lambda: 1.0)
    assert result.failed == {"bad": "it crashed"}
    assert set(result.traces) == {"a", "c", again("a")} == set(result.bandwidth)
    assert {len(traces) for traces in result.traces.values()} == {5}


def test_a_baseline_that_fails_ends_the_comparison():
    def failing(number):
        raise LabkitError("it crashed")

    with pytest.raises(LabkitError, match="crashed"):
        compare({"a": failing, "b": constant(1.0)}, "a", 5)


def test_a_rounds_baseline_is_the_mean_of_its_two_turns():
    result = compare({"a": constant(0.1), "b": constant(0.1)}, "a", rounds=5)
    result.traces[result.control] = [constant(0.3)(i) for i in range(5)]
    assert result.speedup("b").value == pytest.approx(2.0)
    assert result.speedup(result.control).value == pytest.approx(1 / 3)
    assert result.speedup("a").value == 1.0


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
