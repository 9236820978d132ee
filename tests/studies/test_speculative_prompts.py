"""Ratios over prompts: notebook 05's intervals, by hand."""

from __future__ import annotations

import pytest

from labkit.studies.speculative_prompts import Rounds, by_prompt, change, rounds_for, together
from labkit.studies.speculative_tasks import PLAIN
from labkit.timing.compare import Bare, Comparison
from labkit.timing.statistics import Ratio, interval
from labkit.timing.trace import Trace

BARE = "bare read"


def taking(seconds: float) -> Trace:
    """Two tokens, the second so many seconds after the first."""
    return Trace(0.0, (1.0, 1.0 + seconds))


def rounds(ratios: list[float], prompts: int, work: list[float] | None = None) -> Rounds:
    """Plain decoding at one second a token, a setting that is faster by the ratio of each round,
    and a bare read that takes half of a plain pass."""
    count = len(ratios)
    traces = {
        PLAIN: [taking(1.0)] * count,
        f"{PLAIN} (again)": [taking(1.0)] * count,
        "a draft": [taking(1 / ratio) for ratio in ratios],
        BARE: [taking(0.25)] * count,
    }
    comparison = Comparison(PLAIN, traces, {}, {(PLAIN, "tpot"): Bare(BARE, 2.0)})
    return Rounds(comparison, prompts, {"a draft": work or [1.0] * prompts})


def assert_interval(found: Ratio, values: list[float]) -> None:
    """The ratio is the mean of these values, with the interval over them."""
    expected = interval(values)
    assert found.rounds == pytest.approx(values)
    assert (found.value, found.low, found.high) == pytest.approx(
        (expected.value, expected.low, expected.high)
    )


@pytest.mark.parametrize(
    ("wanted", "prompts", "found"),
    [(6, 6, 6), (6, 5, 5), (6, 4, 8), (6, 3, 6), (6, 2, 6), (6, 1, 6), (5, 3, 6), (20, 6, 18),
     (5, 4, 8), (5, 9, 9)],
)  # fmt: skip
def test_every_prompt_runs_equally_often_and_there_are_five_rounds(wanted, prompts, found) -> None:
    assert rounds_for(wanted, prompts) == found


def test_rounds_of_a_prompt_count_as_one() -> None:
    # Rounds 1 to 6 take prompts 1, 2, 0, 1, 2, 0.
    ratios = [2.0, 3.0, 1.0, 8.0, 3.0, 1.0]
    assert by_prompt(ratios, 3) == pytest.approx([4.0, 3.0, 1.0])
    found = rounds(ratios, 3)
    assert found.over_prompts
    assert_interval(found.speedup("a draft"), [4.0, 3.0, 1.0])
    assert found.each("a draft") == pytest.approx([4.0, 3.0, 1.0])
    assert found.speedup("a draft").value == pytest.approx(
        found.comparison.speedup("a draft").value
    )


def test_repeating_prompts_does_not_narrow_the_interval_over_them() -> None:
    once = rounds([1.0, 1.5, 2.0, 1.2, 1.7, 1.4], 6).speedup("a draft")
    often = rounds([1.0, 1.5, 2.0, 1.2, 1.7, 1.4] * 8, 6).speedup("a draft")
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_with_one_prompt_the_interval_is_over_rounds() -> None:
    ratios = [2.0, 2.1, 1.9, 2.0, 2.2]
    found = rounds(ratios, 1)
    assert not found.over_prompts
    assert_interval(found.speedup("a draft"), ratios)
    assert found.each("a draft") == [pytest.approx(interval(ratios).value)]


def test_a_run_that_was_ended_early_tells_rounds_where_prompts_ran_unequally_often() -> None:
    assert rounds([2.0] * 5, 6).over_prompts  # five prompts, once each
    assert not rounds([2.0] * 7, 3).over_prompts
    assert len(rounds([2.0] * 7, 3).each("a draft")) == 7


def test_the_share_counts_the_bytes_of_the_passes_that_a_token_took() -> None:
    found = rounds([2.0, 2.0, 4.0, 2.0, 2.0, 4.0], 3, work=[0.2, 0.5, 0.4])
    assert found.share(PLAIN).value == pytest.approx(0.5)
    # Prompt 1: half the time, half the passes; prompt 2 likewise with 0.4; prompt 0 with 0.2.
    assert list(found.share("a draft").rounds) == pytest.approx(
        [0.5 * 2 * 0.5, 0.5 * 2 * 0.4, 0.5 * 4 * 0.2]
    )


def test_without_a_bare_read_there_is_no_share() -> None:
    found = rounds([2.0] * 6, 3)
    found.comparison.bare.clear()
    assert found.share(PLAIN) is None
    assert found.share("a draft") is None


def test_the_mean_of_all_kinds_is_over_all_prompts() -> None:
    kinds = [rounds([2.0, 8.0] * 3, 2), rounds([1.0] * 5, 1)]
    assert_interval(together(kinds, "a draft"), [2.0, 8.0, 1.0])
    assert_interval(together(kinds[1:], "a draft"), [1.0] * 5)


def test_a_change_is_paired_by_prompt() -> None:
    short = [rounds([1.0, 2.0, 4.0, 1.0, 2.0, 4.0], 3)]
    long = [rounds([1.5, 3.0, 6.0, 1.5, 3.0, 6.0], 3)]
    found = change(short, long, "a draft")
    assert (found.low, found.value, found.high) == pytest.approx((1.5, 1.5, 1.5))
    alone = change([rounds([1.0] * 5, 1)], [rounds([2.0] * 5, 1)], "a draft")
    assert alone.rounds == pytest.approx((2.0,) * 5)
