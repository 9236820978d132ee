"""Findings made from a comparison, against numbers computed by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from labkit.report.told.compared import Least, compared, decided, rebased, told_value
from labkit.report.told.finding import Finding
from labkit.timing.compare import Bare, Comparison, compare
from labkit.timing.trace import Trace
from tests.browser_helpers import finding

ABOUT: dict[str, Any] = {
    "notebook": "02_kv_cache",
    "technique": "kv_cache",
    "workload": {},
    "model": {},
    "hardware": {},
}


def taking(first: float, each: float) -> Any:
    """A variant that takes `first` seconds for its first token, and `each` for two more."""
    return lambda _: Trace(0.0, (first, first + each, first + 2 * each), prompt_tokens=50)


def result(**more: Any) -> Comparison:
    """Five rounds of a plain and a fast variant, and a read that is repeated twice a token."""
    variants = {"plain": taking(1.0, 0.2), "fast": taking(0.5, 0.1), "read": taking(1.0, 0.04)}
    bare = {("fast", "tpot"): Bare("read", 2.0), ("plain", "tpot"): Bare("read", 4.0)}
    return compare(variants | more, "plain", 5, bare)


def of_fast(comparison: Comparison, **given: Any) -> Finding:
    usual = {"phase": "decode", "metric": "decode_rate", "limit_note": "none"}
    return compared(comparison, "fast", **usual | given, **ABOUT)


def test_a_rate_its_limit_and_its_share_of_the_bare_read() -> None:
    found = of_fast(result(), least=Least(0.05, 0.08), bytes_read=1e9, weights="int8")
    assert (found.value, found.baseline_value) == (pytest.approx(10), pytest.approx(5))
    assert found.speedup == pytest.approx(2)
    assert (found.limit, found.limit_low) == (pytest.approx(20), pytest.approx(12.5))
    assert found.fraction_of_limit == pytest.approx(0.5)
    assert found.of_bare_read == pytest.approx(0.8)
    assert (found.bare_note, found.limit_note) == ("read", None)
    assert (found.verdict, found.unit, found.samples) == ("faster", "tok/s", 5)
    assert found.ratios == pytest.approx([2.0] * 5)
    assert (found.bytes_read, found.weights) == (1e9, "int8")


def test_a_bare_read_is_told_beside_the_rate_of_the_limit() -> None:
    """Two reads of 0.04 s where the limit is 0.1 s a token: it was 1.25 times as fast."""
    found = of_fast(result(), least=Least(0.1))
    assert found.bare_over_limit == pytest.approx(1.25)
    assert found.bare_over_limit_low == pytest.approx(1.25)
    assert of_fast(result()).bare_over_limit is None  # no limit to hold it against


def test_a_finding_against_another_variant_is_paired_in_the_same_rounds() -> None:
    comparison = result(other=taking(2.0, 0.3))
    comparison.bare["other", "tpot"] = Bare("read", 1.0, 5e8)
    found = rebased(of_fast(comparison, bytes_read=1e9), comparison, "other")
    assert (found.baseline, found.baseline_bytes) == ("other", 5e8)
    assert found.speedup == pytest.approx(3)
    assert found.value / found.baseline_value == pytest.approx(3)
    assert found.ratios == pytest.approx([3.0] * 5)
    assert (found.bytes_read, found.of_bare_read) == (1e9, pytest.approx(0.8))
    assert [one.verdict for one in decided([found])] == ["faster"]
    seconds = rebased(of_fast(comparison, metric="tpot"), comparison, "other")
    assert seconds.baseline_value == pytest.approx(0.3)


def test_prefill_rate_counts_prompt_tokens() -> None:
    found = of_fast(result(), phase="prefill", metric="prefill_rate")
    assert found.value == pytest.approx(100)
    assert (found.limit, found.limit_note) == (None, "none")
    assert found.of_bare_read is None  # only its tpot was held against something
    assert found.bare_note == "nothing that only reads or multiplies ran beside it"


def test_times_stay_in_seconds() -> None:
    found = of_fast(result(), metric="tpot", least=Least(0.05))
    assert (found.value, found.unit, found.limit) == (pytest.approx(0.1), "s", 0.05)
    assert (found.limit_low, found.fraction_of_limit) == (None, pytest.approx(0.5))


def test_a_limit_that_was_beaten_is_not_told_and_the_reason_is() -> None:
    found = of_fast(result(), least=Least(0.2))
    assert (found.limit, found.fraction_of_limit) == (None, None)
    assert str(found.limit_note).startswith("it was faster than 5\u00a0tok/s, the limit by the")


def test_value_and_baseline_give_the_speedup_of_the_control_too() -> None:
    """Its baseline is the first turn alone, where others have the mean of both turns."""
    slowly = iter([0.2, 0.2, *[0.2, 0.4] * 5])  # the first call, and two turns a round

    def drifting(number: int) -> Trace:
        return taking(1.0, next(slowly))(number)

    found = compare({"plain": drifting, "fast": taking(0.5, 0.1)}, "plain", 5)
    for name in (found.control, "fast"):
        told = compared(
            found, name, phase="decode", metric="tpot", limit_note="none", **ABOUT
        )  # fmt: skip
        assert told.baseline_value / told.value == pytest.approx(told.speedup)


def test_the_row_of_the_control_tells_both_turns_that_its_speedup_is_of() -> None:
    """A mean of both turns beside the second one would give another ratio than the one told."""
    found = result()
    found.traces[found.control] = [taking(1.0, 0.1)(0)] * 5
    assert told_value(found, found.control, "tpot") == "100 ms (first turn: 200 ms)"
    assert str(found.speedup(found.control)) == "2.00x [2.00, 2.00]"
    assert told_value(found, "plain", "tpot") == "141 ms"  # the mean of both
    assert told_value(found, "fast", "tpot", lambda one: f"{1 / one:.0f}") == "10"
    assert found.speedup("fast").value == pytest.approx(1.41, abs=0.005)


def test_a_limit_stands_only_where_nothing_was_faster() -> None:
    least = Least(0.2)
    assert least.standing(0.2) == least.standing(0.4) == least
    assert (least.fraction(0.4), least.fraction(0.2)) == (0.5, 1.0)
    assert least.standing(0.19) is least.fraction(0.19) is None


def test_the_control_is_held_against_what_its_baseline_is() -> None:
    found = result()
    told = compared(
        found, found.control, phase="decode", metric="tpot", limit_note="none", **ABOUT
    )  # fmt: skip
    assert (told.of_bare_read, told.bare_note) == (pytest.approx(0.8), "read")


def with_p(p_value: float | None, **changes: Any) -> Finding:
    usual = {"control_low": 0.99, "control_high": 1.01}
    return finding(p_value=p_value, **usual | changes)


def test_verdicts_are_corrected_for_all_of_a_notebook() -> None:
    """Holm: of three, the least must lie under 0.05 / 3, the next under 0.05 / 2."""
    told = decided([with_p(0.02), with_p(0.9), with_p(0.001)])
    assert [one.verdict for one in told] == ["faster", "inconclusive", "faster"]
    told = decided([with_p(0.03), with_p(0.9), with_p(0.001)])
    assert [one.verdict for one in told] == ["inconclusive", "inconclusive", "faster"]


@pytest.mark.parametrize(
    "control",
    [
        {"control_low": 1.05, "control_high": 1.1},  # it differs from itself
        {"control_low": 0.2, "control_high": 5.0},  # it is wider than the effect
        {"control_low": None, "control_high": None},
    ],
)
def test_a_verdict_needs_a_control_that_could_have_seen_it(control: dict[str, Any]) -> None:
    assert [one.verdict for one in decided([with_p(1e-9, **control)])] == ["inconclusive"]


def test_a_finding_that_was_not_tested_keeps_its_verdict() -> None:
    kept = replace(finding(), p_value=None, verdict="slower")
    assert decided([kept]) == [kept]


def test_output_throughput_is_of_the_window_and_a_gap_is_a_time() -> None:
    """A fast variant takes 0.7 s for three tokens, a plain one 1.4 s."""
    found = of_fast(
        result(), phase="end_to_end", metric="output_throughput", least=Least(0.7 / 3 / 2)
    )
    assert (found.value, found.unit) == (pytest.approx(3 / 0.7), "tok/s")
    assert found.baseline_value == pytest.approx(3 / 1.4)
    assert found.fraction_of_limit == pytest.approx(0.5)
    gap = of_fast(result(), phase="end_to_end", metric="itl")
    assert (gap.value, gap.unit, gap.speedup) == (pytest.approx(0.7), "s", pytest.approx(2))
