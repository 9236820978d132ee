"""What variants are held against: one bare variant for equal needs, as long as the turns last."""

import pytest

from labkit.errors import ImpossibleRate, LabkitError
from labkit.limits.calculator import shapes
from labkit.limits.cost import Cost, decode_cost
from labkit.limits.hardware import Hardware, Reading
from labkit.limits.work import BareProducts, BareRead, spell
from labkit.timing import held
from labkit.timing.compare import Comparison, compare
from labkit.timing.held import LONGEST, SHORTEST, Need, holding, need
from labkit.timing.trace import Trace
from tests.queued_device import QueuedDevice, QueuedWork
from tests.tiny import CONFIG


def lasting(seconds):
    return lambda number: Trace(0.0, (seconds / 2, seconds), 4)


def test_equal_bytes_share_one_bare_read_and_others_have_their_own():
    variants = {name: lasting(0.1) for name in "abc"}
    needs = {("a", "tpot"): Need(2**20), ("b", "tpot"): Need(2**20 + 8), ("c", "tpot"): Need(2**22)}
    runs, bare = holding(variants, needs)
    assert bare["a", "tpot"].name == bare["b", "tpot"].name != bare["c", "tpot"].name
    assert set(runs) == {*variants, *(one.name for one in bare.values())}
    # Sharing a read does not make the bytes equal.
    assert bare["b", "tpot"].repetitions == pytest.approx(1 + 8 / 2**20)
    assert [bare[name, "tpot"].nbytes for name in "ab"] == [2**20, 2**20 + 8]


def test_bytes_that_differ_by_a_percent_are_read_apart():
    needs = {("a", "tpot"): Need(9.0e7), ("b", "tpot"): Need(9.1e7)}
    _, bare = holding({name: lasting(0.1) for name in "ab"}, needs)
    assert [one.name for one in bare.values()] == ["bare read of 90 MB", "bare read of 91 MB"]
    assert bare["b", "tpot"].repetitions == pytest.approx(1)


def test_names_say_the_bytes_and_differ():
    needs = {("a", "tpot"): Need(2**20), ("b", "tpot"): Need(1.2 * 2**20)}  # both 1 MB in words
    _, bare = holding({"a": lasting(0.1), "b": lasting(0.1)}, needs)
    assert len({one.name for one in bare.values()}) == 2
    assert all("bare read" in one.name for one in bare.values())


def test_products_and_reads_are_apart():
    products = BareProducts("float32", 32)
    needs = {
        ("a", "tpot"): Need(2**20),
        ("a", "ttft"): Need(1e6, products),
        ("b", "ttft"): Need(2e6, products),
    }
    runs, bare = holding({"a": lasting(0.1), "b": lasting(0.1)}, needs)
    assert bare["a", "ttft"].name == bare["b", "ttft"].name == "float32 products alone"
    assert bare["b", "ttft"].repetitions == 2 * bare["a", "ttft"].repetitions
    assert bare["b", "ttft"].nbytes is None
    assert len(runs) == 4


@pytest.mark.parametrize(
    ("turn", "bare_turn"), [(0.5, 0.5), (1e-3, SHORTEST), (60.0, LONGEST), (1.5, 1.5)]
)
def test_a_bare_turn_lasts_as_long_as_the_turns_that_it_stands_for(monkeypatch, turn, bare_turn):
    asked = []
    monkeypatch.setattr(
        held, "spell", lambda work, seconds: asked.append(seconds) or spell(work, 0)
    )
    needs = {("a", "tpot"): Need(2**16), ("b", "tpot"): Need(2**16)}
    variants = {"a": lasting(turn), "b": lasting(2 * turn), "base": lasting(9.0)}
    runs, bare = holding(variants, needs)
    for name in ("base", "a", "b", bare["a", "tpot"].name):
        runs[name](1)
    assert asked == [pytest.approx(bare_turn)]


def test_in_a_comparison_the_share_comes_out(monkeypatch):
    device = QueuedDevice(monkeypatch, rate=1e9)
    monkeypatch.setattr(held, "BareRead", lambda nbytes, *_: QueuedWork(device, nbytes))
    runs, bare = holding({"a": lasting(0.4)}, {("a", "tpot"): Need(1e8)})
    found = compare(runs, "a", 5, bare)
    # 1e8 bytes take 0.1 s at 1e9 bytes/s; a token takes 0.2 s.
    assert found.share("a").value == pytest.approx(0.5, rel=0.01)


def test_a_lying_clock_stops_the_comparison(monkeypatch):
    device = QueuedDevice(monkeypatch, rate=1e9, lying=True)
    monkeypatch.setattr(held, "BareRead", lambda nbytes, *_: QueuedWork(device, nbytes))
    runs, bare = holding({"a": lasting(0.4)}, {("a", "tpot"): Need(1e8)})
    with pytest.raises(ImpossibleRate):
        compare(runs, "a", 5, bare)


def test_a_real_read_is_a_trace_of_one_repetition():
    runs, bare = holding({"a": lasting(0.01)}, {("a", "tpot"): Need(2**22)})
    trace = runs[bare["a", "tpot"].name](1)
    assert trace.tpot > 0
    assert BareRead(2**22).amount / trace.tpot > 1e7


def test_a_pass_is_held_against_what_sets_its_limit():
    steady = Reading(10.0, 10.0, 0.0)
    machine = Hardware("a machine", "cpu", 1, {1: steady}, {"float32": steady})
    products = BareProducts("float32", 32)
    reads, computes = (Cost(nbytes, 0, 0, 0, 50.0, 0) for nbytes in (100.0, 20.0))
    assert need(reads, machine, lambda dtype: products) == Need(100.0)
    assert need(computes, machine, lambda dtype: products) == Need(50.0, products)


@pytest.mark.parametrize("when", [0, 2])
def test_a_variant_that_drops_out_no_longer_sets_how_long_a_bare_turn_lasts(monkeypatch, when):
    asked = []
    monkeypatch.setattr(
        held, "spell", lambda work, seconds: asked.append(seconds) or spell(work, 0)
    )

    def failing(number):
        if number == when:
            raise LabkitError("it crashed")
        return lasting(0.03)(number)

    needs = {("a", "tpot"): Need(2**16), ("b", "tpot"): Need(2**16)}
    runs, bare = holding({"a": lasting(0.15), "b": failing}, needs)
    found = compare(runs, "a", 6, bare)
    assert found.failed == {"b": "it crashed"}
    assert asked[-3:] == [pytest.approx(0.15)] * 3


def test_a_variant_may_not_have_the_name_of_its_bare_read():
    with pytest.raises(ValueError, match="held against"):
        holding({"bare read of 8 MB": lasting(0.1)}, {("bare read of 8 MB", "tpot"): Need(8e6)})


@pytest.mark.parametrize("amount", [0.0, -1.0, float("nan"), float("inf")])
def test_what_needs_nothing_is_held_against_nothing(amount):
    needs = {("b", "tpot"): Need(2**16), ("a", "tpot"): Need(amount)}
    with pytest.raises(ValueError, match="the tpot of a would be held against .* above 0"):
        holding({"a": lasting(0.1), "b": lasting(0.1)}, needs)
    with pytest.raises(ValueError, match="held against 0 bytes or operations"):
        holding({"a": lasting(0.1)}, {("a", "tpot"): Need(1.0, BareProducts("float32", 0))})


def test_one_impossible_round_stops_the_comparison():
    cost = decode_cost(next(iter(shapes().values())), 16)
    here = Hardware(
        "x", "cpu", 1, {1: Reading(1e9, 1e9, 0.0, 1e9)}, {"float32": Reading(1e12, 1e12, 0.0, 1e12)}
    )

    def jumping(number):
        return lasting(1e-9 if number == 3 else 0.1)(number)

    def products(_):
        return BareProducts("float32", 32)

    with pytest.raises(ImpossibleRate):
        held.compare_held({"a": jumping}, "a", 5, {("a", "tpot"): cost}, here, products)


def test_a_pass_that_gives_several_tokens_is_read_once_for_all_of_them():
    needs = {(name, "seconds_a_token"): Need(2**20) for name in "ab"}
    needs["a", "seconds_a_token"] = Need(2**20, tokens=4.0)
    runs, bare = holding({"a": lasting(0.1), "b": lasting(0.1)}, needs)
    assert len(runs) == 3  # the set of bytes is that of a pass, for both
    assert bare["a", "seconds_a_token"].repetitions == pytest.approx(1 / 4)
    assert bare["b", "seconds_a_token"].repetitions == pytest.approx(1)
    assert bare["a", "seconds_a_token"].nbytes == 2**20
    traces = {name: [Trace(0.0, (0.4, 0.8))] * 5 for name in "ab"}  # two tokens
    reads = {bare["a", "seconds_a_token"].name: [Trace(0.0, (0.0, 0.1))] * 5}
    found = Comparison("b", traces | {"b (again)": traces["b"]} | reads, {}, bare)
    assert found.share("a", "seconds_a_token").value == pytest.approx(0.1 / 4 / 0.4)
    assert found.share("b", "seconds_a_token").value == pytest.approx(0.1 / 0.4)


def test_tokens_of_one_pass_may_come_faster_than_the_pass():
    cost = decode_cost(CONFIG, 16)
    here = Hardware(
        "x", "cpu", 1, {1: Reading(1e9, 1e9, 0.0, 1e9)}, {"float32": Reading(1e12, 1e12, 0.0, 1e12)}
    )
    key, taken = ("a", "seconds_a_token"), cost.read_bytes / 1e9  # a pass, by a slow machine
    runs = {"a": lasting(2 * taken / 1e6)}  # of a million requests

    def products(_):
        return BareProducts("float32", 32)

    held.compare_held(runs, "a", 5, {key: cost}, here, products, {key: 1e6})
    with pytest.raises(ImpossibleRate):
        held.compare_held(runs, "a", 5, {key: cost}, here, products)
