"""Notebook 07: rows and sentences claim what their numbers show, and no more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from labkit.engine.drive import Served
from labkit.engine.one_hash import Line
from labkit.engine.records import PassRecord, RequestRows
from labkit.limits.batching import BatchLimit, batch_limits
from labkit.limits.calculator import shapes
from labkit.limits.roofline import Limit
from labkit.quality.lossless import SameAnswer
from labkit.studies import batching_figures as figures
from labkit.studies import batching_sentences as told
from labkit.studies import batching_tables as tables
from labkit.studies.batching_answers import Mixed
from labkit.studies.batching_frontier import Point
from labkit.studies.batching_machines import left_out, rows_of_machines
from labkit.studies.batching_memory import Memory
from labkit.studies.batching_stall import CALM, FIXED, NOBODY, PACED, WHOLE, Stall
from labkit.studies.batching_workloads import Tail
from labkit.studies.fused_stages import Share
from labkit.timing.statistics import Ratio
from labkit.timing.trace import Trace
from tests.limits.test_roofline import machine
from tests.tiny import CONFIG

RECORDS = [
    PassRecord(0.0, 1.0, (RequestRows(0, 5, 0, 1), RequestRows(1, 5, 0, 1)), own=0.01),
    PassRecord(1.1, 2.0, (RequestRows(0, 0, 1, 1), RequestRows(1, 0, 1, 1)), own=0.02),
]


def ratio(low: float, value: float, high: float) -> Ratio:
    return Ratio((low, value, high), value, low, high)


def limits(rate: float) -> dict[int, BatchLimit]:
    found = batch_limits(CONFIG, machine(rate=rate), [1, 2, 64], 20)
    return {one.batch: one for one in found}


def stalled(gap: float, ttft: float, usual: float = 0.01) -> list[Stall]:
    return [Stall(usual, (1.0, 1.0 + gap), ttft * k, 3, 1.0, tuple(RECORDS), 1) for k in (1, 1.01)]


# Answers


def test_answers_are_counted_and_ties_are_told() -> None:
    same = [SameAnswer(8, 8), SameAnswer(8, 3, 1e-5), SameAnswer(8, 8)]
    said = told.of_answers(Mixed(same, RECORDS), 4)
    assert "**2 of 3** answers equal" in said
    assert "(24 tokens compared); 1 first differ at a tie within rounding." in said
    assert "tie" not in told.of_answers(Mixed(same[:1], RECORDS), 4)


def test_a_way_that_ends_is_no_one_hash() -> None:
    lines = [Line("alone, here", "a" * 64, 1.0), Line("in batches of 2, here", "a" * 64, 1.0)]
    assert "is **one hash** in all 2 ways" in told.of_hash(lines, 10, 8)
    assert [row["answers"] for row in tables.of_hash(lines)] == ["equal", "equal"]
    lines.append(Line("cold, here", "b" * 64, 1.0, "3 of 10 answers"))
    assert "is **not one hash**: it ends at cold." in told.of_hash(lines, 10, 8)
    assert tables.of_hash(lines)[2] == {
        "way": "cold", "hash": "b" * 16 + "…", "answers": "3 of 10 answers",
    }  # fmt: skip


# Limits and gains


def test_the_roofline_is_told_with_what_sets_it() -> None:
    assert "From 64 requests on, computing" in told.of_roofline(limits(5e6))
    assert "Even for one request, computing" in told.of_roofline(limits(1e4))
    reading = told.of_roofline(limits(1e30))
    assert "computing" not in reading
    assert "of a pass of 64." in reading
    rows = tables.of_limits(limits(1e30), {1: 1.0, 2: 1.5, 64: 9.0})
    assert [row["set by"] for row in rows] == ["memory"] * 3
    assert rows[2]["S(B)/S(1), forecast"] == "9.00x"


def test_a_row_of_one_request_has_no_gain() -> None:
    of = limits(1e30)
    alone = tables.of_batch(of[1], 0.01, None, 1.0, None, 0.5)
    assert (alone["S(B)/S(1)"], alone["of the gain at the limit"]) == ("–", "–")
    assert alone["output tokens/s"] == pytest.approx(100)
    gain, share = ratio(1.4, 1.5, 1.6), ratio(0.6, 0.7, 0.8)
    several = tables.of_batch(of[2], 0.01, gain, 2.0, share, 0.5)
    assert several["S(B)/S(1)"] == "1.50x [1.40, 1.60]"
    assert several["of the bare work"] == "70% [60, 80]"
    assert (several["at the limit"], several["of the gain at the limit"]) == ("2.00x", "75\u00a0%")
    beaten = tables.of_batch(of[2], 0.01, gain, None, share, None)
    columns = ("at the limit", "of the gain at the limit", "of its limit")
    assert {beaten[column] for column in columns} == {"–"}


def test_the_largest_gain_is_told_and_not_the_largest_batch() -> None:
    gains = {2: ratio(1.7, 1.8, 1.9), 64: ratio(1.1, 1.2, 1.3)}
    said = told.of_scaling(gains, {2: 1.9, 64: 9.0})
    assert said.startswith("Most tokens a second came with 2 requests in a pass: **1.80x")
    assert said.endswith("At the limit it would be 1.90x.")
    assert "limit" not in told.of_scaling(gains, {64: 9.0})
    assert told.of_last_gain(64, gains[64], 9.0).endswith("it would be 9.00x.")
    assert "limit" not in told.of_last_gain(64, gains[64], None)


def test_lengths_tell_what_static_batching_loses() -> None:
    said = told.of_tail(Tail(4), [2, 2, 2, 10], 2, 8.0)
    assert "have 4.0 tokens on average; the longest has 10" in said
    assert "**50\u00a0%** of its slots still answer" in said
    assert "2.00x as fast as static batching if" in told.of_gains(2.0, 1.4, 1.3)


def test_a_gain_is_held_against_what_was_allowed() -> None:
    said = told.of_policies(ratio(1.2, 1.25, 1.3), 2.0, 1.5)
    assert "the interval lies above 1" in said
    assert "**83\u00a0%** [80, 87] of the 1.50x" in said
    assert "Of what their cost allows beyond 1.00x, it is 50\u00a0%." in said
    unsure = told.of_policies(ratio(0.9, 0.99, 1.1), 1.0, 1.0)
    assert "no difference is shown" in unsure
    assert "beyond 1.00x" not in unsure


def test_slots_that_answer_are_held_against_full_static_batches() -> None:
    said = told.of_slots({"static": 0.2, "in flight": 0.4}, 0.33, 4, 16)
    assert "**20\u00a0%** in static, **40\u00a0%** in in flight" in said
    assert "full static batches allow 33\u00a0%. The last static batch has 4 requests" in said
    assert said.endswith("for 16 slots.")
    assert told.of_slots({"static": 0.3}, 0.33, 16, 16).endswith("allow 33\u00a0%.")


# The engine


def test_the_engine_s_own_time_is_told_by_pass() -> None:
    assert "took 15 ms a pass, **1.58\u00a0%** of the pass" in told.of_own_time(RECORDS)
    made = Served({0: Trace(0.0, (1.0, 2.0), 5, (1, 2))}, passes=list(RECORDS))
    row = tables.of_own_time("engine", made)
    assert row["passes"] == 2
    assert row["neither"] == "3.5\u00a0%"
    said = told.of_engine(
        ratio(0.97, 0.98, 0.985), ratio(0.9, 0.95, 0.97), 16, 1500.0, ratio(3.8, 4.0, 4.2)
    )
    assert "gives 1,500 output tokens a second: **95\u00a0% [90.0, 97.0]** of what" in said
    assert "the engine reaches **98\u00a0% [97.0, 98.5]** of `generate`" in said
    assert "noise" not in said


def test_a_share_above_100_percent_is_never_told_without_its_reason() -> None:
    gain = ratio(3.8, 4.0, 4.2)
    noisy = told.of_engine(ratio(0.8, 1.05, 1.3), ratio(0.9, 0.95, 0.97), 16, 1500.0, gain)
    assert "of `generate` (above 100 % by noise: the interval includes 100 %)." in noisy
    faster = told.of_engine(ratio(0.9, 0.95, 1.0), ratio(1.01, 1.05, 1.1), 16, 1500.0, gain)
    assert "alone give (it cannot be faster than they are: the machine was faster" in faster


# A long prompt


def test_the_price_of_chunks_is_told_where_it_is_sure() -> None:
    rounds = {WHOLE: stalled(0.5, 1.0), FIXED: stalled(0.1, 1.5), PACED: stalled(0.02, 3.0)}
    rounds[CALM] = [replace(one, long=NOBODY) for one in stalled(0.015, 1.0)]
    said = told.of_stall(rounds, 4096, 8)
    assert "a prompt of 4,096 tokens is read in one pass, each of 8 running" in said
    assert "**50.0x [50, 50]** as long as usual" in said
    assert "**2.00x [2, 2]** the usual one; in as many passes without any long prompt" in said
    assert "the longest gap is 1.50x [1.5, 1.5] the usual one." in said
    assert tables.of_stall(CALM, rounds[CALM])["its first token after"] == "–"
    assert "The price: the long prompt's own first token takes 3.00x" in said
    cheap = rounds | {PACED: stalled(0.02, 0.9)}
    assert "The long prompt's own first token takes 0.90x" in told.of_stall(cheap, 4096, 8)
    assert tables.of_stall(WHOLE, rounds[WHOLE])["over the usual gap"] == "50.0x [50, 50]"


# Latency, memory, and what remains


def a_point(policy: str, load: float, met: float) -> Point:
    some, share = ratio(0.1, 0.2, 0.3), Share(met, met - 0.02, min(1.0, met + 0.02))
    return Point(policy, load, 10 * load, some, some, some, some, share,
                 Share(5 * load, 4 * load, 6 * load))  # fmt: skip


def test_a_load_keeps_the_slos_by_the_lower_end_of_its_interval() -> None:
    points = [a_point("a", 0.5, 0.99), a_point("a", 1.0, 0.91), a_point("b", 0.5, 0.8)]
    said = told.of_frontier(points, 20.0, 48, 6)
    assert "With a, at least 90\u00a0% of the requests met both SLOs at a load of 50\u00a0%" in said
    assert "With b, no load is shown to let 90\u00a0% of the requests meet both SLOs" in said
    assert "asked for were 50\u00a0% and 100\u00a0% of it" in said
    assert "and in these rounds 25\u00a0% and 50\u00a0% came" in said
    row = tables.of_point(points[0])
    assert row["SLOs met"] == "99% [97, 100]"
    assert row["goodput, requests/s"] == "2.5 [2, 3]"


def test_memory_is_told_in_both_caches() -> None:
    found = Memory(tokens=90.0, paged=100.0, contiguous=300.0, most=112)
    assert "always: **90\u00a0%**, in a contiguous cache 30\u00a0%" in told.of_memory(
        {"always": found}
    )
    paged, contiguous = tables.of_memory("always", found, 10.0)
    assert (paged["bytes held"], contiguous["bytes held"]) == ("1 kB", "3 kB")


def test_what_remains_is_taken_apart_only_where_limits_were_not_beaten() -> None:
    assert "50\u00a0% of the one that both would have" in told.of_fractions(64, 0.8, 0.4, 0.5)
    assert "faster than its limit" in told.of_fractions(64, None, 0.4, 0.5)
    more = told.of_rest(64, 0.05, Limit(0.01, 0.03))
    assert "20 ms are beyond the longer of the two. The pass takes more than reading" in more
    less = told.of_rest(64, 0.035, Limit(0.01, 0.03))
    assert "The pass takes less than reading" in less
    beaten = told.of_rest(64, 0.02, Limit(0.01, 0.03))
    assert beaten.endswith("takes 20 ms. It was faster than its limit, so that was none.")


def test_machines_without_a_known_limit_are_named() -> None:
    shape = shapes()["smollm2-135m"]
    rows, missing = rows_of_machines(shape, 192), left_out(shape, 192)
    assert {"this model", "llama-3.1-8b"} >= {row["model"] for row in rows} != set()
    assert "on Raspberry Pi 5" in missing
    assert "bfloat16 products is not printed" in missing


# Figures


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The text alternatives of what is drawn."""
    found: list[str] = []

    def keep(figure: Any, alt: str, caption: str = "") -> None:
        found.append(alt)

    monkeypatch.setattr(figures, "show", keep)
    monkeypatch.setattr(
        figures.timeline_figure, "draw", lambda records, alt, caption, names: found.append(alt)
    )
    return found


def test_figures_are_drawn_from_plain_data(drawn: list[str]) -> None:
    of = limits(1e30)
    some = {2: ratio(1.7, 1.8, 1.9), 64: ratio(5.0, 6.0, 7.0)}
    figures.scaling(some, {1: 1.0, 2: 1.9, 64: 5.0}, of, {2: 2.0}, "gains", "")
    figures.frontier([a_point("a", 0.5, 0.9), a_point("b", 0.5, 0.9)], 0.5, "frontier", "")
    figures.timeline(RECORDS, "in flight")
    figures.timeline_of_stall(stalled(0.1, 1.0)[0], WHOLE)
    assert drawn == [
        "gains", "frontier", "Who was computed when: in flight, the first 2 of 2 passes.",
        "Who was computed when: a long prompt is read in one pass. Passes that read it: 3.",
    ]  # fmt: skip


def test_more_requests_than_lines_are_not_drawn(drawn: list[str]) -> None:
    crowd = [PassRecord(2.0, 3.0, tuple(RequestRows(n, 1, 0, 1) for n in range(60)))]
    figures.timeline(crowd, "in flight")
    figures.timeline_of_stall(Stall(0.1, (1.0, 2.0), 1.0, 1, 1.0, tuple(crowd), 1), WHOLE)
    later = [*RECORDS, *crowd]
    figures.timeline(later, "in flight")
    assert drawn == ["Who was computed when: in flight, the first 2 of 3 passes."]
