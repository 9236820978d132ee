"""Measuring this machine: kept, measured again on request, and never read from a broken file."""

import json

import pytest

from labkit.base.device import threads
from labkit.limits import hardware, probe
from labkit.limits.hardware import BandwidthProbe, Reading, measure_hardware


@pytest.fixture
def small(own_cache, monkeypatch):
    """Quick probes: a few small sizes, into an empty cache."""
    monkeypatch.setattr(probe, "LARGEST_PROBE", 2**20)
    monkeypatch.setattr(probe, "working_sets", lambda largest: [2**16, 2**18, 2**20])
    monkeypatch.setattr(probe, "matrix_rates", lambda *a, **k: [1e9, 2e9, 3e9])
    return own_cache / "hardware"


def test_it_is_measured_once_and_kept(small, monkeypatch):
    first = measure_hardware("cpu", seconds=0.001)
    assert set(first.bandwidth_points) == {2**16, 2**18, 2**20}
    assert first.matrix["float32"].best == 3e9
    assert all(reading.best >= reading.median > 0 for reading in first.bandwidth_points.values())
    monkeypatch.setattr(hardware, "_measure", lambda *a: pytest.fail("measured again"))
    monkeypatch.setattr(hardware, "_BEATEN", 1e6)  # whatever runs beside this test
    assert measure_hardware("cpu") == first


@pytest.mark.parametrize("what", ["memory", "matrix"])
def test_what_a_glance_beats_was_measured_beside_other_work(small, what):
    measure_hardware("cpu", seconds=0.001)
    file = next(small.glob("*.json"))
    kept = json.loads(file.read_text())
    if what == "memory":
        kept["bandwidth_points"][str(2**20)]["best"] = 1.0
    else:
        kept["matrix"]["float32"]["best"] = 1.0
    file.write_text(json.dumps(kept))
    found = measure_hardware("cpu", seconds=0.001)
    assert min(reading.best for reading in found.bandwidth_points.values()) > 1e6
    assert found.matrix["float32"].best == 3e9
    assert json.loads(file.read_text()) != kept


def test_remeasure_measures_again(small):
    first = measure_hardware("cpu", seconds=0.001)
    file = next(small.glob("*.json"))
    before = file.stat().st_mtime_ns
    second = measure_hardware("cpu", seconds=0.001, remeasure=True)
    assert file.stat().st_mtime_ns > before
    assert second.name == first.name


@pytest.mark.parametrize("broken", ["", "{", "[]", '{"name": "x"}'])
def test_a_broken_file_is_measured_again(small, broken):
    measure_hardware("cpu", seconds=0.001)
    file = next(small.glob("*.json"))
    file.write_text(broken)
    measure_hardware("cpu", seconds=0.001)
    assert json.loads(file.read_text())["name"]


def test_other_thread_counts_are_kept_apart(small):
    measure_hardware("cpu", threads=1, seconds=0.001)
    measure_hardware("cpu", threads=2, seconds=0.001)
    assert len(list(small.glob("*.json"))) == 2


def test_a_reading_tells_best_median_and_spread():
    assert Reading.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Reading(5.0, 3.0, 1.0)


def test_the_probe_reads_and_leaves_the_threads_as_they_were():
    import torch

    before = torch.get_num_threads()
    rate = BandwidthProbe(2**20, threads=1)
    assert rate() > 1e8
    assert torch.get_num_threads() == before
    assert rate.nbytes == 2**20


def test_threads_that_wait_for_each_other_do_not_lower_what_is_allowed(monkeypatch):
    import torch

    monkeypatch.setattr(probe, "samples", lambda *_: [50.0 if torch.get_num_threads() > 1 else 1.0])
    assert BandwidthProbe(2**20, threads=2)() == 8 * 2**20
    assert BandwidthProbe(2**24, threads=2)() == 2**24
    assert BandwidthProbe(2**24, threads=2).rates() == [2**24]
    with threads(2):
        for dtype in (torch.float32, torch.bfloat16, torch.int8):
            assert probe.matrix_rates(dtype, 32) == [2 * 32**3]
        assert torch.get_num_threads() == 2


def test_sizes_rise_and_are_dense_where_caches_end():
    sizes = probe.working_sets()
    assert sizes == sorted(set(sizes))
    assert 12 * 2**20 in sizes
    assert sizes[-1] == probe.LARGEST_PROBE
