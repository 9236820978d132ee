"""The states of the memory: found on machines made up, whose clock and cache are known."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from labkit.base import device
from labkit.base.device import last_level_cache
from labkit.errors import ImpossibleRate
from labkit.limits.work import Spell
from labkit.studies import memory_states as states
from labkit.studies import memory_states_told as told
from labkit.studies.memory_states import ITSELF, OTHER, PAGES, PAUSE, Look, Moment, States

FAST, SLOW = 40e9, 25e9  # bytes/s from the made-up cache, and from the memory
SIZES = (2**19, 100_000_000, 400_000_000)


class Machine:
    """A clock that moves with what is read, and a cache that holds what was read last."""

    def __init__(self, cache: float, forgets: bool = False, pages: float = 1.0) -> None:
        self.now, self.cache, self.forgets, self.pages = 0.0, cache, forgets, pages
        self.held: dict[int, float] = {}

    def read(self, size: int, speed: float) -> None:
        part = self.held.get(size, 0.0)
        self.now += size * (part / FAST + (1 - part) / SLOW) / speed
        for other in self.held:
            self.held[other] = max(0.0, self.held[other] - size / self.cache)
        self.held[size] = min(1.0, part + 0.5) if size <= self.cache else 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.forgets:
            self.held.clear()


def run(monkeypatch: pytest.MonkeyPatch, machine: Machine, cores: float = 1.0) -> States:
    """Measure a machine that is made up."""

    class Read:
        def __init__(self, size: int, device: str, threads: int, share: Any = None) -> None:
            self.amount, self.name, self.device = float(size), "a read", device
            self.speed = machine.pages if share == "small" else 1.0

        def repeat(self, count: int) -> None:
            for _ in range(count):
                machine.read(int(self.amount), self.speed)

        def check(self, rate: float) -> float:
            return rate

    def spell(work: Read, _: float) -> Spell:
        start = machine.now
        work.repeat(1)
        return Spell(start, machine.now, 1)

    clock = SimpleNamespace(
        perf_counter=lambda: machine.now,
        process_time=lambda: 2 * cores * machine.now,
        sleep=machine.sleep,
    )
    for name, value in {"BareRead": Read, "spell": spell, "time": clock}.items():
        monkeypatch.setattr(states, name, value)
    monkeypatch.setattr(states, "buffer", lambda *_: None)
    monkeypatch.setattr(states, "_small_pages", lambda _: "small")
    return states.measure(SIZES, 6.0, "cpu", 2)


def test_a_cache_is_found_out_by_reading_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(monkeypatch, Machine(cache=300e6))
    _, held, largest = SIZES
    assert found.first(held, OTHER).value == pytest.approx(SLOW / FAST)
    assert found.later(held, OTHER).value == pytest.approx(1)
    assert found.recovery(held, OTHER).low > 1.5
    assert found.first(held, PAUSE).value == pytest.approx(1)
    assert found.first(largest, OTHER).value == pytest.approx(1)
    assert found.against(held, largest).value == pytest.approx(FAST / SLOW)
    assert found.by_look(held, OTHER)[:3] == pytest.approx([SLOW, 2 / (1 / SLOW + 1 / FAST), FAST])
    said = " ".join(told.sentences(found, 300_000_000))
    assert "Another set explains a part" in said
    between, above, below = found.beyond(held)
    assert above == below == 0 < between  # the second look of a spell finds half of it in the cache
    assert sum(found.shares(held)) + between == pytest.approx(1)
    assert f"do not explain the other {between:.0%}: {between:.0%} between the two." in said
    count = len(found.rounds[held, OTHER][0])
    assert f"the last third of {count} looks had 1.00x [1.00, 1.00]" in said
    slow, fast = found.shares(held)
    assert 0 < slow < fast < 1  # each spell begins with a look from the memory
    assert f"{slow:.0%} of the looks" in said
    assert f"{fast:.0%} within 10 %" in said
    assert "last-level cache of 300 MB" in said
    assert "neither a burst after idleness nor a loss was seen" in said
    assert "no loss of more than 1% is shown" in said
    assert "read 1.60x [1.60, 1.60] as fast" in said


def test_a_machine_without_such_a_cache_shows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(monkeypatch, Machine(cache=1e6))
    said = " ".join(told.sentences(found, 0))
    assert "this run does not show that a shared cache explains the states" in said
    assert "explains a part" not in said
    assert "were not read faster" in said
    assert "last-level cache of" not in said


def test_what_others_take_during_a_pause_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said = " ".join(told.sentences(run(monkeypatch, Machine(300e6, forgets=True)), 0))
    assert "no burst after idleness, but a loss" in said
    assert "what it had in the cache was gone" in said


def test_the_loss_on_small_pages_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(monkeypatch, Machine(300e6, pages=0.8))
    assert found.whole(SIZES[-1], PAGES).value == pytest.approx(0.8)
    assert "must lie on pages of the same size" in " ".join(told.sentences(found, 0))


@pytest.mark.parametrize("asked", [True, False])
def test_a_system_with_huge_pages_on_request_is_named(
    monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    monkeypatch.setattr(told, "only_on_request", lambda: asked)
    found = run(monkeypatch, Machine(300e6, pages=0.8))
    assert ("torch does not" in " ".join(told.sentences(found, 0))) is asked


def test_the_time_that_others_took_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found, alone = (run(monkeypatch, Machine(300e6), cores) for cores in (0.9, 1.0))
    assert found.settled(SIZES[1]) == pytest.approx(
        [rate / 0.9 for rate in alone.settled(SIZES[1])]
    )
    cores = found.cores(SIZES[-1])
    assert cores is not None
    assert cores.value == pytest.approx(0.9)
    said = " ".join(told.sentences(found, 0))
    assert "got 90% [90%, 90%] of its cores' time; other processes on this machine took" in said


def made(rates: dict[str, list[list[float]]], cores: float = 1.0) -> States:
    """States of one size, with the rates of each situation by round and look."""
    rounds = {
        (9, name): [[Look(rate, cores) for rate in looks] for looks in each]
        for name, each in rates.items()
    }
    series = [
        Moment(0.1 * i, i // 8, 9, Look(rate, cores))
        for i, rate in enumerate([4.0, 4.0, 3.0, 3.0, 3.0, 3.0, 2.0, 2.0] * 5)
    ]
    return States((9,), {9: 1}, rounds, series, 0.5, 99)


def test_ratios_are_those_of_the_samples() -> None:
    noise = [1.0, 1.1, 0.9, 1.05, 0.95]
    found = made(
        {
            ITSELF: [[10.0 * x] * 3 for x in noise],
            PAUSE: [[20.0 * x, 10.0 * x, 10.0 * x] for x in noise],
            OTHER: [[5.0 * x, 7.0 * x, 10.0 * x] for x in noise],
        }
    )
    assert found.first(9, PAUSE).value == pytest.approx(2)
    assert found.first(9, OTHER).value == pytest.approx(0.5)
    assert found.later(9, OTHER).value == pytest.approx(1)
    assert found.recovery(9, OTHER).value == pytest.approx(2)
    assert found.lasting(9).value == pytest.approx(0.5)
    assert found.over_time(9)[:2] == [4.0, 4.0]
    said = " ".join(told.sentences(found, 0))
    assert "lasting reads use something up" in said
    assert json.loads(json.dumps(found.to_dict()))["pause"] == 0.5


def test_a_burst_after_idleness_is_told() -> None:
    rounds = [[10.0] * 3] * 5
    found = made({ITSELF: rounds, PAUSE: [[20.0, 10.0, 10.0]] * 5, OTHER: rounds})
    assert "a burst after idleness" in told._after_pause(found, 9, 9)
    slow = made({ITSELF: rounds, PAUSE: [[5.0, 10.0, 10.0]] * 5, OTHER: rounds})
    assert "the cores themselves were slower too" in told._after_pause(slow, 9, 9)


def test_a_device_has_no_pages_and_no_share_of_cores() -> None:
    rounds = [[10.0] * 3] * 5
    found = made({ITSELF: rounds, PAUSE: rounds, OTHER: rounds}, cores=float("nan"))
    assert found.cores(9) is None
    rows = {row["situation"]: row["9 B"] for row in told.rows(found)}
    assert rows["all looks on 4 kB pages"] == rows["share of its cores' time"] == "–"
    said = " ".join(told.sentences(found, 0))
    assert "Pages" not in said
    assert "Other processes" not in said


def test_the_sets_are_near_a_quarter_and_all() -> None:
    assert states.sets_of(8e7) == (2**19, 20_000_000, 80_000_000)
    assert states.sets_of(1000.0) == (120, 248, 1000)
    assert states.sets_of(1e15)[-1] < 1e15


def test_a_real_measurement_keeps_to_its_shape(capsys: pytest.CaptureFixture[str]) -> None:
    found = states.measure((2**16, 2**18), 0.2)
    assert {len(looks) for looks in found.rounds.values()} == {len(found.settled(2**16))}
    assert len(found.settled(2**16)) >= 5
    assert {moment.size for moment in found.series} == set(found.sizes)
    assert min(np.diff([moment.start for moment in found.series])) > 0
    told.show_states(found, last_level_cache())
    assert "[figure] Left: the first look at 65.5 kB" in capsys.readouterr().out


def test_a_rate_above_physics_stops_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = states.Reader(2**16, "cpu", 1)
    clock = SimpleNamespace(perf_counter=iter([0.0, 1e-12]).__next__, process_time=lambda: 0.0)
    monkeypatch.setattr(states, "time", clock)
    with pytest.raises(ImpossibleRate):
        reader.look()


def test_small_pages_hold_the_same_bytes() -> None:
    memory = states._small_pages(2**16)
    assert memory.nbytes == 2**16
    assert torch.equal(memory, torch.ones(2**14))


def test_the_last_level_cache_is_the_largest_that_the_system_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "Path", lambda _: tmp_path)
    assert last_level_cache() == 0
    for number, size in enumerate(("48K", "307200K", "2048K", "")):
        (folder := tmp_path / f"index{number}").mkdir()
        (folder / "size").write_text(f"{size}\n")
    assert last_level_cache() == 300 * 2**20
