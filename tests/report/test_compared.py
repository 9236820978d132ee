"""Findings made from a comparison, against numbers computed by hand."""

import pytest

from labkit.report.told.compared import compared
from labkit.timing.compare import compare
from labkit.timing.trace import Trace

ABOUT = {
    "notebook": "02_kv_cache",
    "technique": "kv_cache",
    "workload": {},
    "model": {},
    "hardware": {},
}


def taking(first, each):
    return lambda number: Trace(0.0, (first, first + each, first + 2 * each), prompt_tokens=50)


RESULT = compare(
    {"plain": taking(1.0, 0.2), "fast": taking(0.5, 0.1)}, "plain", 5, probe=lambda: 1000.0
)


def test_decode_rate_and_its_limit():
    found = compared(
        RESULT, "fast", phase="decode", metric="decode_rate",
        limit_seconds=lambda bandwidth: 50 / bandwidth, **ABOUT,
    )  # fmt: skip
    assert found.value == pytest.approx(10)
    assert found.baseline_value == pytest.approx(5)
    assert found.speedup == pytest.approx(2)
    assert found.limit == pytest.approx(20)
    assert found.fraction_of_limit == pytest.approx(0.5)
    assert (found.verdict, found.unit, found.samples) == ("faster", "tok/s", 5)


def test_prefill_rate_counts_prompt_tokens():
    found = compared(
        RESULT, "fast", phase="prefill", metric="prefill_rate", limit_note="not asked", **ABOUT
    )
    assert found.value == pytest.approx(100)
    assert found.limit is None


def test_times_stay_in_seconds():
    found = compared(RESULT, "fast", phase="decode", metric="tpot", limit_note="none", **ABOUT)
    assert (found.value, found.unit) == (pytest.approx(0.1), "s")


def test_more_than_the_limit_is_a_defect():
    found = compared(
        RESULT, "fast", phase="decode", metric="tpot", limit_seconds=lambda _: 0.2, **ABOUT
    )
    assert found.fraction_of_limit == pytest.approx(2)
    assert "is wrong" in str(found.defect)
