"""Measuring this machine: kept, measured again on request, and never read from a broken file."""

import json
import math
from collections import namedtuple

import pytest

from labkit.base import places
from labkit.base.places import UnwritableError
from labkit.errors import LabkitError, ParameterError
from labkit.limits import measure
from labkit.limits.hardware import Hardware, Reading
from labkit.limits.measure import measure_hardware
from labkit.limits.work import working_sets


def test_it_is_measured_once_and_kept(small, monkeypatch):
    first = measure_hardware("cpu", seconds=0.001)
    assert set(first.bandwidth_points) == {2**16, 2**18, 2**20}
    assert first.matrix["float32"].best > 1e6
    assert all(
        reading.best >= reading.median >= reading.slowest > 0
        for reading in first.bandwidth_points.values()
    )
    monkeypatch.setattr(measure, "_measure", lambda *a: pytest.fail("measured again"))
    monkeypatch.setattr(measure, "_BEATEN", 1e6)  # whatever runs beside this test
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
    assert found.matrix["float32"].best > 1e6
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


def test_a_run_measures_once_and_keeps_it(small, tmp_path, monkeypatch):
    first = measure_hardware("cpu", seconds=0.001, keep=tmp_path / "run")
    assert list((tmp_path / "run" / "hardware").glob("*.json"))
    monkeypatch.setattr(measure, "_measure", lambda *a: pytest.fail("measured again"))
    monkeypatch.setattr(measure, "_outdone", lambda kept: True)  # it holds for the run all the same
    assert measure_hardware("cpu", keep=tmp_path / "run") == first


def test_a_new_run_takes_over_only_what_was_measured_just_now(small, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "_BEATEN", 1e6)
    first = measure_hardware("cpu", seconds=0.001)
    assert measure_hardware("cpu", seconds=0.001, keep=tmp_path / "a") == first
    file = next(small.glob("*.json"))
    kept = json.loads(file.read_text()) | {"measured_at": "2020-01-01T00:00:00+00:00"}
    file.write_text(json.dumps(kept))
    assert measure_hardware("cpu", seconds=0.001).measured_at == kept["measured_at"]
    anew = measure_hardware("cpu", seconds=0.001, keep=tmp_path / "b")
    assert anew.measured_at != kept["measured_at"]


def test_a_reading_tells_best_median_slowest_and_spread():
    assert Reading.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Reading(5.0, 3.0, 1.0, 1.0)


def machine(**points):
    readings = {int(size[1:]): Reading(best, best, 0.0, best / 2) for size, best in points.items()}
    return Hardware("x", "cpu", 1, readings, {"float32": Reading(8.0, 8.0, 0.0, 4.0)})


def test_a_smaller_set_is_never_said_to_be_slower():
    here = machine(_1=4.0, _100=2.0, _10000=3.0)
    assert here.bandwidth(1) == 4.0
    assert here.bandwidth(100) == here.bandwidth(1000) == here.bandwidth(1e9) == 3.0
    assert here.slowest_bandwidth(1) == 2.0
    assert here.slowest_rate("float32") == 4.0
    assert 3.0 < here.bandwidth(10) < 4.0


def test_the_cache_of_a_datasheet_is_no_memory():
    from dataclasses import replace

    here = replace(machine(_1=4.0), cache=100)
    assert not here.in_cache(50)  # a measured machine knows its caches
    assert replace(here, source="a datasheet").in_cache(100)
    assert not replace(here, source="a datasheet").in_cache(101)


def test_sizes_rise_and_are_dense_where_caches_end():
    sizes = working_sets(2**28)
    assert sizes == sorted(set(sizes))
    assert 12 * 2**20 in sizes
    assert sizes[-1] == 2**28


def test_the_fastest_products_are_taken_and_slow_sizes_left_out(monkeypatch):
    tried = []

    def rates(work, seconds, spells):
        tried.append(work.amount)
        return [{2 * 256**3: 5.0, 2 * 768**3: 1e12}.get(work.amount, 2e9)]

    monkeypatch.setattr(measure, "rates", rates)
    found = measure.fastest_products("float32", "cpu", 1)
    assert found.amount == 2 * 256**3  # the others would take years at 5 FLOP/s
    assert tried == [2 * 256**3]


def reading(best):
    """A reading as it stands in a file."""
    return {"best": best, "median": 1.0, "spread": 0.0, "slowest": 1.0 if best != -1 else -1}


@pytest.mark.parametrize(
    "change",
    [
        {"bandwidth_points": {}},
        {"bandwidth_points": []},
        {"matrix": {}},
        {"threads": 64},
        {"device": "cuda"},
        {"measured_at": "yesterday"},
        {"bandwidth_points": {"65536": reading(1e30)}},
        {"bandwidth_points": {"65536": reading(-1)}},
        {"matrix": {"float32": reading("fast")}},
    ],
)  # fmt: skip
def test_a_kept_file_that_cannot_be_true_is_measured_again(small, tmp_path, change):
    measure_hardware("cpu", seconds=0.001, keep=tmp_path)
    for folder in (small, tmp_path / "hardware"):
        file = next(folder.glob("*.json"))
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    found = measure_hardware("cpu", seconds=0.001, keep=tmp_path)
    assert set(found.bandwidth_points) == {2**16, 2**18, 2**20}
    assert found.matrix["float32"].best > 1e6


def test_a_measurement_of_the_future_is_not_recent(small, tmp_path):
    measure_hardware("cpu", seconds=0.001)
    file = next(small.glob("*.json"))
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"measured_at": "2099-01-01T00:00:00+00:00"})
    )
    found = measure_hardware("cpu", seconds=0.001, keep=tmp_path)
    assert not found.measured_at.startswith("2099")


@pytest.mark.parametrize("threads", [0, -1])
def test_less_than_one_thread_is_refused(threads):
    with pytest.raises(ParameterError, match="give at least 1"):
        measure_hardware("cpu", threads)


def test_the_slowest_rate_of_a_size_is_its_own() -> None:
    """A larger set may have met better moments: they make no worst moment better."""
    points = {
        2**20: Reading(50.0, 45.0, 0.1, 20.0),
        2**30: Reading(40.0, 38.0, 0.1, 30.0),
    }
    here = Hardware("a", "cpu", 2, points, {})
    assert (here.slowest_bandwidth(2**20), here.slowest_bandwidth(2**30)) == (20.0, 30.0)
    assert here.bandwidth(2**20) == 50.0


def test_a_cache_that_cannot_be_written_is_told_before_anything_is_measured(small, monkeypatch):
    small.parent.mkdir(exist_ok=True)
    monkeypatch.setattr(measure, "_measure", lambda *a: pytest.fail("it was measured"))
    monkeypatch.setenv("LABKIT_CACHE", str(small.parent / "file"))
    (small.parent / "file").touch()
    with pytest.raises(LabkitError, match="LABKIT_CACHE"):
        measure_hardware("cpu", seconds=0.001)
    monkeypatch.setenv("LABKIT_CACHE", str(small.parent))
    monkeypatch.setattr(places.shutil, "disk_usage", lambda _: namedtuple("usage", "free")(0))
    with pytest.raises(UnwritableError, match="set LABKIT_CACHE to another folder"):
        measure_hardware("cpu", seconds=0.001)


def test_a_run_that_cannot_keep_its_measurement_is_told(small, tmp_path):
    (tmp_path / "hardware").touch()
    with pytest.raises(UnwritableError, match="the run's measurement"):
        measure_hardware("cpu", seconds=0.001, keep=tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"by_threads": {"1": {"bandwidth": reading(1.0)}}},
        {"by_threads": {"1": {"bandwidth": reading(1.0), "matrix": reading(math.nan)}}},
        {"by_threads": []},
        {"bandwidth_points": {"0": reading(1.0)}},
        {"bandwidth_points": {"65536": reading(math.nan)}},
        {"bandwidth_points": {"65536": reading(math.inf)}},
        {"capacity": math.nan},
        {"cache": "much"},
        {"name": ["x"]},
        {"measured_at": None},
        {"lost": 2.0},
        {"lost": "much"},
    ],
)  # fmt: skip
def test_a_kept_file_with_a_part_that_cannot_be_true_is_measured_again(small, change):
    measure_hardware("cpu", seconds=0.001)
    file = next(small.glob("*.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    found = measure_hardware("cpu", seconds=0.001)
    assert set(found.bandwidth_points) == {2**16, 2**18, 2**20}
    assert json.loads(file.read_text())["capacity"] > 0
