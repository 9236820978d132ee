"""How a turn is held against the memory: estimators of a share, and reads short and long."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from labkit.limits.work import BareRead
from labkit.studies import timing_held as held
from labkit.timing.compare import Bare, Comparison
from labkit.timing.trace import Trace

PLAIN, READ = "plain decoder", "bare read"
ROUNDS = 400


def noise(seed: int, spread: float, count: int = ROUNDS) -> np.ndarray:
    return np.exp(spread * np.random.default_rng(seed).standard_normal(count))


def comparison(turns: Sequence[float], read: Sequence[float], repetitions: float = 1) -> Comparison:
    """Turns and bare reads of these seconds a token; each turn is due at its own moment."""
    plain, again = (
        [
            Trace(2.0 * i + odd, (2.0 * i + 1 + odd, 2.0 * i + 1 + odd + x))
            for i, x in enumerate(turns)
        ]
        for odd in (0.0, 0.5)
    )
    reads = [Trace(0.0, (0.0, value)) for value in read]
    traces = {PLAIN: plain, f"{PLAIN} (again)": again, READ: reads}
    return Comparison(PLAIN, traces, {}, {(PLAIN, "tpot"): Bare(READ, repetitions)})


def test_all_estimators_agree_about_the_share() -> None:
    found = held.estimates(0.8 * noise(1, 0.02), noise(2, 0.02))
    assert {round(one.value, 2) for one in found.values()} == {0.8}
    assert all(one.low < 0.8 < one.high for one in found.values())
    rows = held.estimate_rows(found)
    assert [row["estimator"] for row in rows] == [held.PAIRED, held.MEDIAN, held.UNPAIRED]


def test_pairing_narrows_what_slows_both_and_nothing_else() -> None:
    shared, own = noise(1, 0.2, 30), noise(2, 0.02, 30)
    together = held.estimates(0.8 * shared, shared * own)
    assert 5 * together[held.PAIRED].half_width < together[held.UNPAIRED].half_width
    told = held.told_estimates(together, 30)
    assert "Pairing narrowed it" in told
    opposed = held.estimates(0.8 * shared, own / shared)
    assert "Pairing did not narrow it" in held.told_estimates(opposed, 30)
    best = min(opposed, key=lambda name: opposed[name].half_width)
    assert f"the narrowest is the **{best}**" in held.told_estimates(opposed, 30)


def test_a_median_is_narrower_where_few_rounds_are_disturbed() -> None:
    bare = np.array([0.8, 0.81, 0.79, 0.8, 0.805, 0.795, 0.8, 0.81, 0.79, 3.0])
    found = held.estimates(bare, np.ones(10))
    assert found[held.MEDIAN].half_width < found[held.PAIRED].half_width
    assert f"**{held.MEDIAN}**" in held.told_estimates(found, 10)


def test_an_interval_covers_the_share_as_often_as_it_says() -> None:
    """By each estimator; the bootstrap of a median is known to be a little too narrow."""
    hits = dict.fromkeys((held.PAIRED, held.MEDIAN, held.UNPAIRED), 0)
    for seed in range(200):
        found = held.estimates(0.8 * noise(seed, 0.1, 12), noise(seed + 1000, 0.1, 12))
        for name, one in found.items():
            hits[name] += one.low <= 0.8 <= one.high
    assert min(hits[held.PAIRED], hits[held.UNPAIRED]) >= 180
    assert hits[held.MEDIAN] >= 170


def test_equal_samples_have_no_width() -> None:
    found = held.estimates([0.8] * 6, [1.0] * 6)
    assert {round(one.half_width, 9) for one in found.values()} == {0}


def test_the_bare_read_counts_the_baselines_own_bytes() -> None:
    found = comparison([1.0] * 5, [0.25] * 5, repetitions=2)
    assert held.bare(found) == (READ, [0.5] * 5)
    del found.traces[READ]
    assert held.bare(found) is None


def looks_of(found: Comparison, short: Sequence[float]) -> dict[float, float]:
    turns = (*found.traces[PLAIN], *found.traces[found.control])
    return {trace.due: value for trace, value in zip(turns, [*short, *short], strict=True)}


def test_what_goes_with_the_turn_takes_noise_away_and_what_does_not_adds_some() -> None:
    turns = noise(1, 0.1, 40)
    found = comparison(turns, 0.8 * turns * noise(2, 0.02, 40))
    read = held.bare(found)
    assert read is not None
    against = held.against(found, read, looks_of(found, noise(3, 0.3, 40)))
    alone, short, whole = against.values()
    assert whole.spread < alone.spread < short.spread
    assert whole.correlation is not None
    assert short.correlation is not None
    assert whole.correlation[0] > 0.9
    assert short.correlation[1] < 0 < short.correlation[2]
    told = held.told_against(against)
    assert "more noise, not less; whether the two go together is not sure." in told
    assert told.endswith("less noise.")
    assert [row["held against"] for row in held.against_rows(against)] == list(against)
    assert held.against_rows(against)[0]["correlation with the turn"] == "–"


def test_a_correlation_has_the_interval_of_fisher() -> None:
    first, second = noise(1, 1.0, 28), noise(1, 1.0, 28) + noise(2, 1.0, 28)
    found = held.correlation(first, second)
    assert found is not None
    r, low, high = found
    assert r == pytest.approx(np.corrcoef(first, second)[0, 1])
    assert math.atanh(high) - math.atanh(r) == pytest.approx(1.96 / 5, rel=1e-3)
    assert math.atanh(r) - math.atanh(low) == pytest.approx(1.96 / 5, rel=1e-3)
    assert held.correlation(first, np.ones(28)) is None
    assert held.correlation(first[:3], second[:3]) is None


def test_a_look_comes_before_the_turn_and_is_no_part_of_it() -> None:
    looks: dict[float, float] = {}
    trace = Trace(7.0, (8.0, 9.0))
    turn = held.looking_first(lambda _: trace, BareRead(2**16), looks)
    assert turn(1) is trace
    assert list(looks) == [7.0]
    assert 0 < looks[7.0] < held.GLANCE
