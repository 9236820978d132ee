"""No rate above physics, and no clock that does not wait: both stop the run."""

import math
from types import SimpleNamespace

import pytest
import torch

from labkit.base.device import cores_allowed
from labkit.errors import ImpossibleRate, ParameterError
from labkit.limits import ceiling as ceilings
from labkit.limits import clock, work
from labkit.limits.calculator import shapes
from labkit.limits.ceiling import Ceiling, ceiling, of_properties
from labkit.limits.cost import decode_cost
from labkit.limits.datasheet import known_device, machines
from labkit.limits.measure import dtypes
from tests.queued_device import QueuedDevice, QueuedWork

H200 = SimpleNamespace(
    memory_clock_rate=3_201_000, memory_bus_width=6016, clock_rate=1_980_000,
    multi_processor_count=132, L2_cache_size=62_914_560,
)  # fmt: skip  # as its driver gave them


@pytest.mark.parametrize("count", [-1, 10**6])
def test_a_number_of_threads_that_cannot_be_is_refused(count):
    """The native reader would end the process."""
    for make in (
        lambda: work.BareRead(2**20, threads=count),
        lambda: work.BareProducts("float32", 32, threads=count),
    ):
        with pytest.raises(ParameterError, match=f"threads {count}: allowed are 1 to 1024"):
            make()
    assert work.BareRead(2**20, threads=None).threads == cores_allowed()


def test_a_queue_that_is_waited_for_tells_its_true_rate(monkeypatch):
    device = QueuedDevice(monkeypatch, rate=4e12)
    found = work.rates(QueuedWork(device, 1e9, most=5e12), 0.1)
    assert found == pytest.approx([4e12] * 5, rel=0.01)


def test_a_launch_is_under_one_percent_of_what_is_timed(monkeypatch):
    device = QueuedDevice(monkeypatch, rate=4e12)
    tiny = QueuedWork(device, 4e7, most=5e12)  # 10 us a repetition, twice a launch
    assert work.rates(tiny, 0.1)[0] == pytest.approx(4e12, rel=0.01)


def test_a_clock_that_does_not_wait_is_refused_by_its_rate(monkeypatch):
    device = QueuedDevice(monkeypatch, rate=4e12, lying=True)
    with pytest.raises(ImpossibleRate, match=r"measured at 200 TB/s.*at most 5 TB/s"):
        work.rates(QueuedWork(device, 1e9, most=5e12), 0.001)


@pytest.mark.parametrize("amount", [1e6, 1e9])
def test_a_clock_that_does_not_wait_is_refused_without_any_ceiling(monkeypatch, amount):
    device = QueuedDevice(monkeypatch, rate=4e12, lying=True)
    lying = QueuedWork(device, amount, most=math.inf)
    monkeypatch.setattr(lying, "repeat", lambda count: device.queue(count * amount))
    with pytest.raises(ImpossibleRate, match="does not wait"):
        clock.check_clock(lying)
    assert device.ready < 1e4  # and it did not queue work without an end


def test_twice_the_work_in_the_same_time_is_refused(monkeypatch):
    device = QueuedDevice(monkeypatch, rate=4e12)
    same = QueuedWork(device, 1e9, most=math.inf)
    monkeypatch.setattr(same, "repeat", lambda _: device.queue(1e12))  # whatever is asked
    monkeypatch.setattr(clock, "spell", lambda *_: work.Spell(0.0, 0.01, 1))
    with pytest.raises(ImpossibleRate, match=r"twice the work took 1\.00 times as long"):
        clock.check_clock(same)


def test_a_clock_that_waits_passes(monkeypatch):
    clock.check_clock(QueuedWork(QueuedDevice(monkeypatch, rate=4e12), 1e9, math.inf))


def test_a_disturbed_pair_is_measured_again(monkeypatch):
    answers = iter([3.1, 1.2, 2.05])
    monkeypatch.setattr(clock, "kind", lambda _: "cuda")
    monkeypatch.setattr(clock, "by_events", lambda *_: None)
    monkeypatch.setattr(clock, "twice_the_work", lambda *_: next(answers))
    clock.check_clock(QueuedWork(QueuedDevice(monkeypatch, rate=4e12), 1e9, math.inf))


@pytest.mark.parametrize(
    ("kind", "growth", "good"),
    [("cuda", 1.7, False), ("cuda", 2.3, False), ("cuda", 1.9, True), ("cpu", 3.0, True),
     ("cpu", 1.5, True), ("cpu", 1.0, False)],
)  # fmt: skip
def test_how_far_the_two_ways_may_differ(monkeypatch, kind, growth, good):
    monkeypatch.setattr(clock, "kind", lambda _: kind)
    monkeypatch.setattr(clock, "by_events", lambda *_: None)
    monkeypatch.setattr(clock, "twice_the_work", lambda *_: growth)
    queued = QueuedWork(QueuedDevice(monkeypatch, rate=4e12), 1e9, math.inf)
    if good:
        clock.check_clock(queued)
    else:
        with pytest.raises(ImpossibleRate, match="twice the work"):
            clock.check_clock(queued)


def test_events_that_disagree_with_the_host_are_refused(monkeypatch):
    device = QueuedDevice(monkeypatch, rate=4e12)
    queued = QueuedWork(device, 1e9, math.inf)
    monkeypatch.setattr(clock, "by_events", lambda _, count: 1.2 * count * 1e9 / 4e12)
    with pytest.raises(ImpossibleRate, match="by the device's events"):
        clock.check_clock(queued)
    monkeypatch.setattr(clock, "by_events", lambda _, count: 1.05 * count * 1e9 / 4e12)
    clock.check_clock(queued)


@pytest.mark.parametrize("rate", [0.99, 1.0])
def test_a_rate_at_the_ceiling_passes(rate):
    most = Ceiling("x", "a datasheet", 100.0, {"int8": 10.0})
    assert most.check_bandwidth(100 * rate) == 100 * rate
    assert most.check_matrix(10 * rate, "int8") == 10 * rate


@pytest.mark.parametrize("rate", [100.1, math.inf, math.nan])
def test_a_rate_above_the_ceiling_or_none_at_all_is_refused(rate):
    most = Ceiling("x", "a datasheet", 100.0, {"int8": 100.0})
    with pytest.raises(ImpossibleRate, match="a datasheet"):
        most.check_bandwidth(rate)
    with pytest.raises(ImpossibleRate, match="int8 products"):
        most.check_matrix(rate, "int8")


def test_a_set_in_the_cache_has_the_ceiling_of_the_cache():
    most = of_properties("NVIDIA X", H200)
    assert most.check_bandwidth(16e12, working_set=64 * 2**20) == 16e12  # seen on that GPU
    with pytest.raises(ImpossibleRate):
        most.check_bandwidth(16e12, working_set=2**30)
    with pytest.raises(ImpossibleRate):
        most.check_bandwidth(1e14, working_set=2**20)


def test_an_unknown_gpu_has_the_ceiling_of_its_clocks():
    most = of_properties("NVIDIA X", H200)
    assert 4.8e12 < most.bandwidth < 1.2e13  # its datasheet says 4.8
    assert 989e12 < most.matrix["bfloat16"] < 1e16
    assert of_properties("NVIDIA X", SimpleNamespace(multi_processor_count=1)).bandwidth == math.inf


def test_a_known_gpu_has_its_datasheet(monkeypatch):
    monkeypatch.setattr(ceilings, "kind", lambda _: "cuda")
    monkeypatch.setattr(ceilings, "device_name", lambda _: "NVIDIA H200")
    monkeypatch.setattr(ceilings, "_properties", lambda _: H200)
    most = ceiling("cuda:0")
    assert most.bandwidth == pytest.approx(1.05 * 4.8e12)
    assert most.matrix["bfloat16"] == 989.4e12
    with pytest.raises(ImpossibleRate):  # what the first notebooks once told
        most.check_bandwidth(26e12)
    with pytest.raises(ImpossibleRate):
        most.check_matrix(1.1e17, "bfloat16")


def test_only_the_very_device_of_the_table_is_known():
    assert known_device("NVIDIA H200") is machines()["h200-sxm"]
    for name in ("NVIDIA H100 NVL", "NVIDIA L40", "NVIDIA GeForce RTX 4090 Laptop GPU", "", "cpu"):
        assert known_device(name) is None


def test_this_processor_stays_below_its_ceiling():
    most = ceiling("cpu")
    assert 1e11 < most.bandwidth < 1e15
    reading = work.BareRead(2**22)
    assert all(rate < most.bandwidth for rate in work.rates(reading, 0.01))
    for dtype in dtypes("cpu"):
        products = work.BareProducts(dtype, 64)
        assert all(rate < most.matrix[dtype] for rate in work.rates(products, 0.01))


def test_a_pass_that_no_device_can_do_is_refused():
    cost = decode_cost(next(iter(shapes().values())), 16)
    most = Ceiling("x", "a datasheet", 1e9, {"float32": 1e9})
    most.check_pass(cost, 10.0)
    with pytest.raises(ImpossibleRate, match="reading"):
        most.check_pass(cost, cost.read_bytes / 2e9)
    with pytest.raises(ImpossibleRate, match="float32 products"):
        Ceiling("x", "", 1e20, {"float32": 1e9}).check_pass(cost, cost.flops / 2e9)


def test_the_native_int8_probe_uses_the_instruction_of_the_fused_decoder():
    if work.native_library() is None:
        pytest.skip("no C++ compiler")
    from labkit.optimize.fused.engine import Engine

    assert work.NativeInt8(1).isa == Engine(1).isa


def test_native_int8_counts_its_operations():
    if work.native_library() is None:
        pytest.skip("no C++ compiler")
    one, two = work.NativeInt8(1), work.NativeInt8(2)
    assert two.amount == 2 * one.amount > 0
    assert all(rate > 1e6 for rate in work.rates(one, 0.01))


@pytest.mark.parametrize("nbytes", [1, 8, 4096, 100_000, 3 * 2**20 + 4])
def test_the_bare_read_has_the_bytes_that_it_says(nbytes):
    reading = work.BareRead(nbytes)
    assert abs(reading.amount - max(8, nbytes)) < 8
    reading.repeat(2)


def test_without_a_compiler_torch_reads(monkeypatch):
    monkeypatch.setattr(work, "native_library", lambda: None)
    before = torch.get_num_threads()
    reading = work.BareRead(2**20, threads=1)
    assert all(rate > 1e7 for rate in work.rates(reading, 0.01))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("lying", "good"), [(False, True), (True, False)])
def test_after_the_wait_nothing_may_be_left(monkeypatch, lying, good):
    device = QueuedDevice(monkeypatch, rate=1e8, lying=lying)
    queued = QueuedWork(device, 1e6, math.inf)  # every repetition queued by itself: time doubles

    def read_back(_):
        device.now = max(device.now, device.ready)

    monkeypatch.setattr(clock, "kind", lambda _: "mps")  # a device without events
    monkeypatch.setattr(clock, "read_back", read_back)
    if good:
        clock.check_clock(queued)
    else:
        with pytest.raises(ImpossibleRate, match="was still to come"):
            clock.check_clock(queued)


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan])
def test_a_pass_that_took_no_time_is_refused(seconds):
    cost = decode_cost(next(iter(shapes().values())), 16)
    with pytest.raises(ImpossibleRate, match="stood still"):
        Ceiling("x", "").check_pass(cost, seconds)
