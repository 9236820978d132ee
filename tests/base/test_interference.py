"""What a turn lost to other work, by counters of a system that is made of files here."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from labkit.base import interference
from labkit.base.interference import Counters, Lost, Meter
from labkit.errors import LabkitError
from labkit.timing import compare as module
from labkit.timing.compare import Comparison, compare
from labkit.timing.trace import Trace


class System:
    """A /proc and a tree of control groups of version 1 or 2, of two cores that may be used."""

    def __init__(self, folder: Path, version: int = 2) -> None:
        self.proc, self.groups, self.version = folder / "proc", folder / "groups", version
        self.quota = self.groups / ("pods/mine" if version == 2 else "cpu/mine")
        for each in (self.proc / "self/task/11", self.proc / "self/task/12", self.quota):
            each.mkdir(parents=True)
        line = "0::/pods/mine\n" if version == 2 else "4:memory:/x\n3:cpu,cpuacct:/mine\n"
        (self.proc / "self/cgroup").write_text(line)
        self.set()

    def set(
        self, stolen: tuple[int, int, int] = (0, 0, 0), throttled: float = 0.0,
        waited: tuple[int, ...] = (0, 0), busy: int = 0,
    ) -> None:  # fmt: skip
        """Ticks of 10 ms of three cores, seconds, and nanoseconds of threads 11, 12, ...; busy:
        ticks that each core worked."""
        cores = [f"cpu{n} {busy} 9 9 9 9 9 9 {ticks} 0 0" for n, ticks in enumerate(stolen)]
        total = f"cpu  9 9 9 9 9 9 9 {sum(stolen)} 0 0"
        (self.proc / "stat").write_text("\n".join([total, *cores, "intr 1 2 3", ""]))
        name, unit = ("throttled_usec", 1e6) if self.version == 2 else ("throttled_time", 1e9)
        (self.quota / "cpu.stat").write_text(f"nr_throttled 3\n{name} {throttled * unit:.0f}\n")
        for thread, waiting in enumerate(waited, 11):
            (self.proc / f"self/task/{thread}").mkdir(exist_ok=True)
            (self.proc / f"self/task/{thread}/schedstat").write_text(f"700 {waiting} 5\n")

    def meter(self) -> Meter:
        return Meter(self.proc, self.groups)


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process may run on cores 0 and 1 of three."""
    monkeypatch.setattr(interference, "allowed", lambda: frozenset({0, 1}))
    monkeypatch.setattr(interference, "cores", lambda: type("Given", (), {"given": 2})())
    monkeypatch.setattr(interference, "_switches", iter(range(0, 1000, 7)).__next__)


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("version", [1, 2])
def test_a_turn_loses_what_the_counters_grew_by(tmp_path: Path, version: int) -> None:
    system = System(tmp_path, version)
    system.set((5, 6, 7), 1.5, (10**9, 0))
    meter = system.meter()
    assert meter.uncounted == {}
    before = meter.now()
    system.set((7, 9, 900), 1.75, (10**9, 3 * 10**8, 10**8))  # core 2 is not ours; thread 13 is new
    lost = meter.since(before)
    assert lost.stolen == pytest.approx(0.05)
    assert lost.throttled == pytest.approx(0.25)
    assert lost.waited == pytest.approx(0.4)
    assert lost.others == 0
    assert lost.switches == 7
    assert (lost.cores, lost.seconds > 0) == (2, True)


@pytest.mark.usefixtures("two_cores")
def test_others_had_what_the_cores_worked_and_this_process_did_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interference.time, "process_time", iter((1.0, 1.0, 1.25)).__next__)
    system = System(tmp_path)
    system.set(busy=100)
    meter = system.meter()
    before = meter.now()
    system.set(busy=130)  # 0.6 s on two cores, of which 0.25 s were ours
    assert meter.since(before).others == pytest.approx(0.35)


@pytest.mark.usefixtures("two_cores")
def test_a_thread_that_one_reading_left_out_has_not_waited_anew(tmp_path: Path) -> None:
    """It happened: a thread that had waited for 54 s in all was missing in one reading."""
    system = System(tmp_path)
    system.set(waited=(10**9, 54 * 10**9))
    meter = system.meter()
    file = system.proc / "self/task/12/schedstat"
    file.rename(file.with_name("away"))
    meter._files = interference._Files()
    before = meter.now()
    file.with_name("away").rename(file)
    assert meter.since(before).waited == 0
    system.set(waited=(10**9, 2 * 10**8))  # ended, and a new thread has its number
    assert meter.since(before).waited == pytest.approx(0.2)


def test_what_is_lost_is_a_share_of_all_cores_given() -> None:
    assert Lost(2.0, 2, stolen=0.1, throttled=0.3, waited=0.5).share == pytest.approx(0.15)
    assert Lost(2.0, 2, stolen=0.1, throttled=0.3).share == pytest.approx(0.1)
    assert Lost(2.0, 2, stolen=0.0, switches=900).share == 0
    assert Lost(1.0, 1, waited=7.0).share == 1  # seven threads on one core
    assert Lost(1.0, 1, waited=7.0, others=0.3).share == pytest.approx(0.3)  # the rest: each other
    assert Lost(0.0, 1, waited=0.0).share == 0
    assert Lost(2.0, 2, switches=9).share is None


def test_a_thread_that_ended_takes_nothing_back(tmp_path: Path) -> None:
    system = System(tmp_path)
    system.set(waited=(5 * 10**9, 10**9))
    meter = system.meter()
    before = meter.now()
    (tmp_path / "proc/self/task/11/schedstat").unlink()
    system.set(waited=())
    (tmp_path / "proc/self/task/12/schedstat").write_text("1 2000000000 1")
    assert meter.since(before).waited == pytest.approx(1.0)


@pytest.mark.usefixtures("two_cores")
def test_what_a_system_does_not_count_is_none_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interference, "_switches", lambda: None)
    meter = Meter(tmp_path / "none", tmp_path / "none")
    lost = meter.since(meter.now())
    assert (lost.stolen, lost.throttled, lost.waited, lost.switches) == (None,) * 4
    assert lost.share is None
    assert set(meter.uncounted) == {"stolen", "throttled", "waited", "switches"}
    assert "quota" in meter.uncounted["throttled"]


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize(
    ("file", "text", "missing"),
    [
        ("proc/stat", "cpu0 1 2 3 4 5 6 7\n", "stolen"),  # before Linux 2.6.11
        ("proc/stat", "", "stolen"),
        ("groups/pods/mine/cpu.stat", "usage_usec 5\nuser_usec 5\n", "throttled"),  # a root
        ("groups/pods/mine/cpu.stat", "throttled_usec many\n", "throttled"),
        ("proc/self/task/11/schedstat", "", "waited"),
    ],
)
def test_a_counter_that_is_not_there_is_not_taken_for_0(
    tmp_path: Path, file: str, text: str, missing: str
) -> None:
    system = System(tmp_path)
    (tmp_path / file).write_text(text)
    (tmp_path / "proc/self/task/12/schedstat").unlink()
    meter = system.meter()
    assert set(meter.uncounted) == {missing}
    assert getattr(meter.since(meter.now()), missing) is None


def test_a_group_without_a_quota_of_its_own_is_stopped_by_the_one_above(tmp_path: Path) -> None:
    system = System(tmp_path)
    above = tmp_path / "groups/pods/cpu.stat"
    above.write_text("throttled_usec 1000000\n")
    meter = system.meter()
    before = meter.now()
    above.write_text("throttled_usec 3000000\n")
    assert meter.since(before).throttled == pytest.approx(2.0)


def test_this_system_is_read() -> None:
    meter = Meter()
    lost = meter.since(meter.now())
    if os.path.exists("/proc/stat"):
        assert "stolen" not in meter.uncounted
    for name in ("stolen", "throttled", "waited", "switches"):
        assert (getattr(lost, name) is None) == (name in meter.uncounted)
    assert lost.share is None or 0 <= lost.share <= 1


class Readings:
    """A meter that finds that every turn lost some seconds of its one second."""

    def __init__(self, lost: list[float]) -> None:
        self.lost, self.uncounted = iter(lost), {"throttled": "no quota"}

    def now(self) -> Counters:
        return Counters(0.0, 0.0, None, None, None, None)

    def since(self, before: Counters) -> Lost:
        return Lost(1.0, 1, stolen=next(self.lost), switches=3)


def turn(number: int) -> Trace:
    return Trace(0.0, (1.0, 2.0), 8)


def compared(monkeypatch: pytest.MonkeyPatch, lost: list[float], **more: object) -> Comparison:
    monkeypatch.setattr(module, "Meter", lambda: Readings(lost))
    return compare({"a": turn, "b": turn, **more}, "a", rounds=5)  # type: ignore[dict-item]


def test_each_turn_keeps_what_it_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two first calls, then five rounds of three turns: a, b, a again, in changing order."""
    found = compared(monkeypatch, [0.9, 0.9, *(n / 100 for n in range(15))])
    assert {name: len(turns) for name, turns in found.lost.items()} == {
        name: len(traces) for name, traces in found.traces.items()
    }
    assert [found.lost[name][0].stolen for name in (found.control, "b", "a")] == [0.0, 0.01, 0.02]
    assert len(found.disturbed()) == 12  # 0.03 and more
    assert found.disturbed(0.135) == {next(iter(found.disturbed(0.135))): 0.14}
    assert found.rounds == 5  # none is left out
    kept = json.loads(json.dumps(found.to_dict()))
    assert kept["uncounted"] == {"throttled": "no quota"}
    assert kept["lost"]["b"][0]["throttled"] is None
    assert kept["lost"]["b"][0]["share"] == kept["lost"]["b"][0]["stolen"]
    assert found.until(1).disturbed() == found.disturbed()


def test_a_variant_that_drops_out_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(number: int) -> Trace:
        if number == 3:
            raise LabkitError("gone")
        return turn(number)

    found = compared(monkeypatch, [0.5] * 30, c=failing)
    assert set(found.lost) == set(found.traces) == {"a", "b", found.control}
    assert all(len(turns) == 5 for turns in found.lost.values())


def test_a_comparison_that_nobody_counted_for_has_no_disturbed_turns() -> None:
    """As of an earlier run, or of a test."""
    found = Comparison("a", {"a": [turn(0)]}, {})
    assert found.disturbed() == {}
    assert found.to_dict()["lost"] == {}
    assert dataclasses.replace(found, lost={"a": [Lost(1.0, 1)]}).disturbed(0.0) == {}
