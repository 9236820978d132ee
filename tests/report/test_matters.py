"""Rows that matter and advice: from sure verdicts only."""

from __future__ import annotations

from typing import Any

import pytest

from labkit.report.told import matters
from labkit.report.told.finding import Finding
from tests.browser_helpers import finding, several
from tests.report.test_answer import NONE, OURS, THEIRS, draft, plain, rung

TTFT = {"phase": "prefill", "metric": "ttft", "unit": "s", "value": 0.03, "limit": 0.01,
        "limit_low": 0.02}  # fmt: skip


def many(variant: str, value: float, **more: Any) -> Finding:
    told = {
        "notebook": "07_batching", "technique": "batching", "variant": variant, "value": value,
        "baseline": "1 request", "metric": "output_throughput",
    }  # fmt: skip
    return finding(**told | NONE | more)


def whole() -> list[Finding]:
    """Findings of a run of many notebooks."""
    return [
        rung("fused", 330.0),
        rung("fused", 1600.0, phase="prefill", metric="prefill_rate"),
        rung("other", 1900.0, phase="prefill", metric="prefill_rate"),
        rung("llama.cpp", 119.0, engine=THEIRS),
        finding(notebook="02_kv_cache", technique="kv_cache"),
        finding(notebook="01_timing", technique="timing", variant="slowed", verdict="slower"),
        draft("chat", 300.0),
        draft("translation", 500.0, "faster"),
        draft("sums", 200.0, "slower"),
        many("32 requests", 640.0),
        many("engine, 8 in flight", 350.0, phase="end_to_end"),
        many("8 requests", 900.0, verdict="inconclusive"),
        finding(technique="caching", notebook="06", variant="512 shared tokens", **TTFT),
        rung("slow", 15.0, verdict="slower"),
        rung("theirs", 14.0, verdict="slower", engine=THEIRS),
    ]


def test_five_rows_of_five_questions() -> None:
    told = [(row.topic, row.finding.variant) for row in matters.rows(whole())]
    assert told == [
        ("one answer", "fused"),
        ("reading the prompt", "fused"),
        ("with drafts", "translation, automatic"),
        ("many requests at once", "32 requests"),
        ("prompts that begin alike", "512 shared tokens"),
    ]


def test_a_small_run_fills_them_with_another_engine_and_sure_gains() -> None:
    found = [one for one in whole() if one.technique not in ("batching", "caching", "speculative")]
    told = [(row.topic, row.finding.variant) for row in matters.rows(found)]
    assert told[2:] == [("the fastest other engine", "llama.cpp"), ("kv cache", "static cache")]
    assert [row.topic for row in matters.rows(several())] == ["one answer"]
    assert matters.rows([]) == []


def test_changed_answers_are_no_row_where_close_ones_gained() -> None:
    coarse = {"perplexity_ratio": 1.19}
    found = [
        *whole()[:4],
        rung("coarse.cpp", 150.0, engine=THEIRS, quality=coarse),
        finding(notebook="04", technique="quantization", variant="coarse", quality=coarse,
                speedup=3.2, speedup_low=3.0),
        finding(notebook="04", technique="quantization", variant="fine"),
    ]  # fmt: skip
    assert [row.finding.variant for row in matters.rows(found)][2:] == ["llama.cpp", "fine"]


def test_nothing_unsure_is_a_row_but_the_answer_itself() -> None:
    unsure = [
        many("2 requests", 9.0, verdict="inconclusive"),
        finding(technique="caching", verdict="slower", **TTFT),
        draft("chat", 300.0),
        rung("fused", 330.0, verdict="inconclusive"),
    ]
    assert [row.topic for row in matters.rows(unsure)] == ["one answer"]


def test_what_to_do_follows_from_verdicts() -> None:
    told = {one.what: plain(one.text) for one in matters.advice(whole())}
    assert told["One chat"] == (
        "use `fused`. It gives 330 tok/s, 16.5x [15.7, 17.4] as fast as `transformers`."
    )
    assert told["Drafts"] == (
        "turn them on for translation (1.50x [1.20, 1.90]); leave them off for sums (1.50x "
        "[1.20, 1.90]); no sure difference for 1 of 3 kinds of task."
    )
    assert told["Many requests"].startswith("use `engine, 8 in flight`: 350 tok/s together, 3.10x")
    assert (
        "With `512 shared tokens`, the first token came after 30 ms: 3.10x"
        in (told["Prompts that begin alike"])
    )
    assert told["Slower here"].startswith("`slow` (decode, 0.75x")
    assert "theirs" not in told["Slower here"]
    assert "slowed" not in told["Slower here"], "a planted one"


def test_nothing_is_advised_that_was_not_sure() -> None:
    told = matters.advice([rung("fused", 330.0, verdict="inconclusive"), draft("chat", 1.0)])
    assert [one.what for one in told] == ["One chat", "Drafts"]
    assert told[0].text.startswith("stay with `transformers`. `fused` was not surely faster")
    assert plain(told[1].text) == "no sure difference for 1 of 1 kinds of task."
    assert matters.advice([]) == []


def test_slower_ones_are_named_up_to_four() -> None:
    slow = [finding(variant=f"v{n}", verdict="slower", engine=OURS) for n in range(6)]
    text = next(one.text for one in matters.advice(slow) if one.what == "Slower here")
    assert text.endswith(", and 2 more.")


def test_counts_of_verdicts() -> None:
    assert matters.verdicts(several()) == "4 findings: 2 faster, 1 slower, 1 inconclusive"
    assert matters.verdicts([finding()]) == "1 finding: 1 faster"


@pytest.mark.parametrize(
    ("hardware", "said"),
    [
        (
            {"memory_bandwidth": 2.7e10, "matrix_rate": {"int8": 8.3e11}, "threads": 2},
            "It reads 27 GB/s from memory and multiplies matrices at 830 GFLOP/s in int8 with 2 "
            "threads.",
        ),
        ({"memory_bandwidth": 2.7e10, "threads": True}, "It reads 27 GB/s from memory."),
        ({"memory_bandwidth": "x", "matrix_rate": [1]}, ""),
        ({}, ""),
    ],
)
def test_the_machine_in_a_sentence(hardware: dict[str, Any], said: str) -> None:
    assert matters.machine(hardware) == said
