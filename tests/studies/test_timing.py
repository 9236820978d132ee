"""The planted slowdown: what must be found, and what is told where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from labkit.errors import ParameterError
from labkit.report.told.words import effect
from labkit.studies import timing, timing_tables
from labkit.studies import timing_planted as planted
from labkit.studies import timing_sentences as sentences
from labkit.timing.compare import Comparison, Variant, compare
from labkit.timing.statistics import Ratio, interval, spread_at_most
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
    assert found.verdicts()[SLOWED] == planted.expected_verdict(0.1)
    told = planted.outcome(found, SLOWED, 0.1)
    assert noise == 0 or "lies inside" in told  # without noise the interval has no width
    assert "it shows no difference, as it must." in told
    assert "**0.909x**" in planted.prediction(0.1)


def test_a_slowdown_other_than_the_planted_one_is_told() -> None:
    assert "Predicted 0.909x" in (told := planted.outcome(comparison(0.3, 0.01), SLOWED, 0.1))
    assert "lies outside" in told


def with_control(times: list[float]) -> Comparison:
    """A comparison whose control's tokens take these seconds, and the baseline's 1 s."""
    found = comparison(0.1)
    steady = [Trace(0.0, (1.0, 2.0))] * ROUNDS
    slow = [Trace(0.0, (1.0, 1.0 + 1.5 * x)) for x in times]
    control = [Trace(0.0, (1.0, 1.0 + x)) for x in times]
    found.traces = {PLAIN: steady, SLOWED: slow, found.control: control}
    return found


def test_a_control_that_differs_is_told() -> None:
    told = planted.outcome(with_control([1.5] * ROUNDS), SLOWED, 0.1)
    assert "no verdict of this run counts" in told


@pytest.mark.parametrize(
    ("times", "enough"),
    [
        ([1.0] * ROUNDS, [True, True, True]),
        ([1.1] * ROUNDS, [True, False, True]),
        ([0.3, 3.0] * (ROUNDS // 2), [False, True, False]),
    ],
)
def test_the_rules_of_a_verdict_are_told_one_by_one(times: list[float], enough: list[bool]) -> None:
    found = with_control(times)
    rows = planted.verdict_rules(found, SLOWED)
    assert [row["enough"] for row in rows] == enough
    assert (found.verdicts()[SLOWED] == "slower") == all(enough)


def test_the_less_likely_of_two_findings_must_be_twice_as_unlikely() -> None:
    found = with_control([1.0] * ROUNDS)
    asked = [planted.verdict_rules(found, SLOWED)[0]["what a verdict needs"]]
    found.traces[SLOWED] = [Trace(0.0, (1.0, 1.0 + x)) for x in [0.9, 1.12] * (ROUNDS // 2)]
    found.traces[found.control] = [Trace(0.0, (1.0, 1.5))] * ROUNDS
    asked.append(planted.verdict_rules(found, SLOWED)[0]["what a verdict needs"])
    first, second = map(str, asked)
    assert "less than 2.5% of the runs" in first  # the slowed variant is the least likely
    assert "less than 5.0% of the runs" in second  # the control is: half of the error is spent


def ratio_of(spread: float) -> Ratio:
    return interval(np.exp(spread * np.random.default_rng(0).standard_normal(40)))


def test_rounds_needed_fall_with_the_change_and_rise_with_the_noise() -> None:
    quiet, loud = (planted.rounds_for(ratio_of(spread)) for spread in (0.01, 0.1))
    assert list(quiet.values()) == sorted(quiet.values(), reverse=True)
    assert loud[0.05] > quiet[0.05]
    assert loud[0.02] >= planted.MOST_ROUNDS
    rows = timing_tables.rounds(loud, 40)
    assert rows[0] == {"true change": "2%", "rounds": "400 or more", "made here": False}
    assert timing_tables.rounds(quiet, 40)[-1]["made here"]


def test_what_is_told_of_the_noise_is_computed() -> None:
    control = interval([0.9, 1.1, 0.95, 1.05, 1.0])
    told = planted.told_noise(control, 400)
    assert f"spread by {np.std(np.log(control.rounds), ddof=1):.1%}" in told
    assert "**400 or more rounds**" in told
    assert f"show a true change of {effect(control.smallest_effect)} in **4 of 5**" in told
    assert f"may be as large as {spread_at_most(control.rounds):.1%}" in told
    assert f"known to ± {control.half_width:.1%}" in told


def test_total_over_tokens_depends_on_the_length_and_tpot_does_not() -> None:
    """A prompt of 1 s and tokens of 0.1 s each."""
    answers = {
        n: Trace(5.0, tuple(6 + 0.1 * i for i in range(n)), 64, tuple(range(n))) for n in (1, 2, 11)
    }
    rows = timing_tables.lengths(answers)
    assert [row["total / tokens"] for row in rows] == ["1 s", "550 ms", "182 ms"]
    assert [row["TTFT"] for row in rows] == ["1 s"] * 3
    assert [row["TPOT"] for row in rows] == ["undefined", "100 ms", "100 ms"]


def test_the_table_holds_the_control_and_what_its_rounds_could_see() -> None:
    found = comparison(0.1)
    rows = timing_tables.variants(found, (PLAIN, SLOWED, found.control))
    assert [row["variant"] for row in rows] == [PLAIN, SLOWED, f"{PLAIN} (again)"]
    assert [row["speedup"] for row in rows] == ["–", "0.91x [0.91, 0.91]", "1.00x [1.00, 1.00]"]
    assert [row["could have seen"] for row in rows] == ["–", "1\u00a0%", "1\u00a0%"]
    assert [row["first call"] for row in rows] == ["1 s", "1.1 s", "–"]


def test_a_warm_up_is_told_only_where_the_first_call_was_slower() -> None:
    later = [1.0, 1.1, 0.9, 1.05] * 5
    assert "2.98 times as long" in sentences.warm_up([3.05, *later], 1)
    flat = sentences.warm_up([1.02, *later], 1)
    assert "no warm-up was visible in this run" in flat
    assert "times as long" not in flat
    assert "no steady part" in sentences.warm_up([1.02, *later], 21)


def test_drift_is_told_only_where_blocks_did_worse() -> None:
    wide, narrow = np.linspace(0.8, 1.2, 40), np.linspace(0.95, 1.05, 40)
    assert "is 4.0 times as wide as that" in sentences.drift(wide, narrow)
    assert "blocks did no worse" in sentences.drift(narrow, wide)
    assert "blocks did no worse" in sentences.drift(np.ones(9), np.ones(9))
    assert "is wider than that" in sentences.drift(wide, np.ones(9))


def test_samples_are_told_as_they_are() -> None:
    told = sentences.one_sample([1.0] * 19 + [2.0])
    assert "from 1 s to 2 s" in told
    assert "can differ by 5%" in told
    assert "20 times as long" in sentences.naive([1e-6, 2e-6, 3e-6], 4e-5)
    assert "200 times too high" in sentences.not_waiting(1e-3, 0.2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"series": 24}, "series is 24; allowed: whole numbers from 25"),
        ({"slowdown": 0.0}, "slowdown is 0.0; allowed: numbers above 0"),
        ({"new_tokens": 1}, "new_tokens is 1; allowed: whole numbers from 2"),
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
