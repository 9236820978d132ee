"""The planted slowdown: what must be found, and what is told where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from labkit.errors import ParameterError
from labkit.studies import timing, timing_tables
from labkit.studies import timing_planted as planted
from labkit.timing.compare import Comparison, Variant, compare
from labkit.timing.trace import Trace

PLAIN, SLOWED = "plain decoder", "slowed by 10%"
ROUNDS = 12


def stub(share: float, noise: float = 0.0, drift: float = 0.05) -> Variant:
    """Traces of three tokens without a clock, each token `share` slower.

    drift: by how much a later round is slower, for all. noise: standard deviation of a turn.
    """
    rng = np.random.default_rng(int(1000 * share))

    def run(number: int) -> Trace:
        a_token = (1 + share) * (1 + drift * number) * (1 + noise * rng.standard_normal())
        return Trace(0.0, (1.0, 1 + a_token, 1 + 2 * a_token), 8, (1, 2, 3))

    return run


def comparison(share: float, noise: float = 0.0) -> Comparison:
    runs = {PLAIN: stub(0.0, noise), SLOWED: stub(share, noise)}
    return compare(runs, PLAIN, ROUNDS)


def test_what_a_slowdown_must_come_out_as() -> None:
    assert planted.expected_speedup(0.25) == 0.8
    assert planted.expected_verdict(0.1) == "slower"
    assert planted.expected_verdict(0.005) == "inconclusive"  # within 1 %: nobody can claim it


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_a_planted_slowdown_is_found_as_predicted(noise: float) -> None:
    found = comparison(0.1, noise)
    ratio = found.speedup(SLOWED)
    assert ratio.value == pytest.approx(planted.expected_speedup(0.1), abs=0.01)
    assert ratio.verdict == planted.expected_verdict(0.1)
    assert found.trusted()
    told = planted.outcome(found, SLOWED, 0.1)
    assert noise == 0 or "lies inside" in told  # without noise the interval has no width
    assert "The control is inconclusive, as it should be." in told


def test_a_slowdown_other_than_the_planted_one_is_told() -> None:
    assert "Predicted 0.909x" in (told := planted.outcome(comparison(0.3, 0.01), SLOWED, 0.1))
    assert "lies outside" in told


def test_a_control_that_differs_is_told() -> None:
    fast = Trace(0.0, (1.0, 2.0))
    slow = Trace(0.0, (1.0, 2.5))
    found = comparison(0.1)
    found.traces = {
        PLAIN: [fast] * ROUNDS, SLOWED: [slow] * ROUNDS, found.control: [slow] * ROUNDS
    }  # fmt: skip
    told = planted.outcome(found, SLOWED, 0.1)
    assert "The control is slower" in told
    assert "no verdict of this run can be believed" in told


def test_each_rounds_ratio_is_what_the_speedup_is_the_median_of() -> None:
    found = comparison(0.1, 0.02)
    for name in (SLOWED, found.control):
        ratios = planted.round_ratios(found, name)
        assert len(ratios) == ROUNDS
        assert np.median(ratios) == pytest.approx(found.speedup(name).value)


def test_rounds_needed_fall_with_the_change_and_rise_with_the_noise() -> None:
    rng = np.random.default_rng(0)
    quiet, loud = (planted.rounds_for(1 + s * rng.standard_normal(40)) for s in (0.01, 0.1))
    assert list(quiet.values()) == sorted(quiet.values(), reverse=True)
    assert loud[0.05] > quiet[0.05]
    assert loud[0.02] >= planted.MOST_ROUNDS
    assert timing_tables.rounds(loud)[0]["rounds"] == "400 or more"


def test_what_is_told_of_the_noise_is_computed() -> None:
    told = planted.told_noise([0.9, 1.1], 400, [2e9, 1e9, 3e9])
    assert "standard deviation of 10.0%" in told
    assert "**400 or more rounds**" in told
    assert "from 1 to 3 GB/s" in told


def test_total_over_tokens_depends_on_the_length_and_tpot_does_not() -> None:
    """A prompt of 1 s and tokens of 0.1 s each."""
    answers = {
        n: Trace(5.0, tuple(6 + 0.1 * i for i in range(n)), 64, tuple(range(n))) for n in (1, 2, 11)
    }
    rows = timing_tables.lengths(answers)
    assert [row["total / tokens"] for row in rows] == ["1 s", "550 ms", "182 ms"]
    assert [row["TTFT"] for row in rows] == ["1 s"] * 3
    assert [row["TPOT"] for row in rows] == ["undefined", "100 ms", "100 ms"]


def test_the_table_holds_the_control_and_its_verdict() -> None:
    rows = timing_tables.variants(comparison(0.1))
    assert [row["variant"] for row in rows] == [PLAIN, SLOWED, f"{PLAIN} (again)"]
    assert [row["verdict"] for row in rows] == ["inconclusive", "slower", "inconclusive"]
    assert [row["first call"] for row in rows] == ["1 s", "1.1 s", "–"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"series": 24}, "series 24 is too short: give at least 25"),
        ({"slowdown": 0.0}, "slowdown 0 is not above 0"),
        ({"new_tokens": 1}, "new_tokens 1: a TPOT needs at least 2"),
    ],
)
def test_values_that_leave_nothing_to_show_are_refused_at_once(
    values: dict[str, float], message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        timing.Study(model="not looked at", **values)  # type: ignore[arg-type]


def test_the_shortest_series_has_a_ratio_of_either_kind() -> None:
    left = timing.FEWEST_IN_SERIES - timing.LONGEST_CUT
    series = np.linspace(1, 2, left)
    assert len(timing.pitfalls.block_ratios(series, timing.BLOCK)) == 1
    assert len(timing.pitfalls.interleaved_ratios(series, timing.BLOCK)) == 1
