"""Notebook 15's tables and sentences: each from a comparison whose times are known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from labkit.bench.costs import Products
from labkit.limits.hardware import Reading
from labkit.quality.tasks import Score
from labkit.studies import the_limit_sentences as sentences
from labkit.studies import the_limit_tables as tables
from labkit.studies.fused_stages import REST, STEP, Share
from labkit.studies.the_limit_variants import ALL_LOGITS, FUSED
from labkit.timing.compare import Comparison, again
from labkit.timing.statistics import interval
from labkit.timing.trace import Trace
from tests.ladder import MACHINE, ROUNDS, lab, ladder, loaded, reading

CHANGED = loaded("Q4_0, requantized", same=False)


# Tables


def test_rows_of_the_same_bytes_show_the_same_limit_to_the_digit() -> None:
    found = ladder({"plain": 0.5, "a": 0.25}, dict.fromkeys(("transformers", "plain", "a"), 1e8))
    rows = tables.decode(lab(), found, ["transformers", "plain", "a"])
    assert {row["limit, tok/s"] for row in rows} == {"10 (5)"}  # 1e8 bytes at 1e9 a second, at half
    assert [row["of its limit"] for row in rows] == ["10%", "20%", "40%"]


def test_the_share_of_the_bare_read_stands_with_its_interval() -> None:
    found = ladder({"plain": 0.5}, {"plain": 1e8}, bare={"plain": 0.4}, noisy="plain")
    (row,) = tables.decode(lab(), found, ["plain"])
    assert str(row["of the bare read"]).startswith("80% [")
    assert list(row).index("of the bare read") < list(row).index("of its limit")


def test_a_limit_that_was_beaten_is_a_dash_and_never_above_one() -> None:
    found = ladder({"plain": 0.05}, {"plain": 1e8})
    (row,) = tables.decode(lab(), found, ["plain"])
    assert row["of its limit"] == row["limit, tok/s"] == "–"


def test_an_engine_that_tells_no_bytes_has_dashes() -> None:
    (row,) = tables.decode(lab(), ladder({"plain": 0.5}), ["plain"])
    assert {row[name] for name in ("bytes read a token", "limit, tok/s", "of its limit")} == {"–"}


def test_weights_that_were_rounded_anew_are_called_so() -> None:
    found = ladder({"plain": 0.5}, engines={"plain": CHANGED})
    rows = tables.decode(lab(), found, ["transformers", "plain"])
    assert [row["weights"] for row in rows] == ["the model's", "rounded anew"]


def test_the_baseline_is_not_compared_with_itself() -> None:
    (row,) = tables.decode(lab(), ladder({}), ["transformers"])
    assert row["against transformers"] == row["could have seen"] == "–"


def test_a_prompt_has_the_limit_of_its_arithmetic_or_none() -> None:
    found = ladder({"plain": 0.5, "a": 0.5})
    heavy = replace(reading(1.0, "int8"), matrix_flops=1e12)  # 0.25 s of a prompt of 0.5 s
    found.costs["plain", "ttft"] = heavy
    arithmetic = {"plain": Products("int8", ""), "a": Products(None, "not told")}
    rows = tables.prefill(lab(), found, arithmetic, ["plain", "a"])
    assert [row["products in"] for row in rows] == ["int8", "not known"]
    assert rows[0]["limit, tok/s"] == "48 (24)"  # 12 tokens in 0.25 s, and in 0.5 s
    assert [row["of its limit"] for row in rows] == ["50%", "–"]


def test_expected_limits_are_those_of_the_tables_of_what_was_measured() -> None:
    found = ladder({"plain": 0.5}, {"plain": 1e8})
    (row,) = tables.expected_decode(lab(), {"float32": 1e8})
    assert (row["limit"], row["at the slowest"]) == ("10 tok/s", "5 tok/s")
    assert tables.decode(lab(), found, ["plain"])[0]["limit, tok/s"] == "10 (5)"
    assert [row["products in"] for row in tables.expected_prefill(lab())] == ["float32", "int8"]


def test_the_engines_with_the_nearest_bytes_come_first() -> None:
    nbytes = {"transformers": 5e8, "plain": 5e8, "llama.cpp": 1.01e8, FUSED: 1e8}
    found = ladder({"plain": 1.0, "llama.cpp": 0.3, FUSED: 0.1}, nbytes)
    rows = tables.beside(found, FUSED, ["transformers", "plain", "llama.cpp"])
    assert [row["against"] for row in rows] == ["llama.cpp", "transformers", "plain"]
    assert rows[0][f"{FUSED} is"] == "3.00x [3.00, 3.00]"
    assert [row["its bytes over ours"] for row in rows] == ["1.01", "5.00", "5.00"]


def test_a_note_stands_in_the_row_of_its_engine() -> None:
    names = ["transformers", "llama.cpp"]
    told = {"transformers": loaded(), "llama.cpp": loaded(note="reads batches of 31")}
    rows = tables.engines(told, names)
    assert [row["note"] for row in rows] == ["–", "reads batches of 31"]
    assert rows[1]["engine"] == "llama.cpp 1.2"
    assert "note" not in tables.engines({"transformers": loaded()}, names[:1])[0]


def test_answers_stand_with_their_intervals() -> None:
    judged = {"kl_mean": 0.004, "kl_p99": 0.02, "top1_agreement": 0.96, "perplexity_ratio": 1.01}
    ends = {f"{n}_{end}": 1.0 for n in ("kl_mean", "kl_p99", "top1", "perplexity")
            for end in ("low", "high")}  # fmt: skip
    (row,) = tables.answers({"plain": judged | ends}, ["transformers", "plain"])
    assert row["mean KL, nats"] == "0.004 [1, 1]"
    assert row["same top token"] == "96.0% [100.0%, 100.0%]"
    assert "right answers" not in row
    scored = {"plain": judged | ends | Score(30, 40).quality()}
    (row,) = tables.answers(scored, ["plain"])
    assert row["right answers"] == "75% [60%, 86%]"


def test_what_is_not_measurable_is_told_so_and_has_no_time() -> None:
    shares = {"head": Share(0.25, 0.2, 0.3), "attention": Share(0.01, -0.1, 0.1),
              REST: Share(-0.2, -0.3, -0.1)}  # fmt: skip
    rows = tables.stages(shares, step=0.004)
    assert [row["share of a step"] for row in rows] == ["25% [20, 30]", *["not measurable"] * 2]
    assert [row["time"] for row in rows] == ["1 ms", "–", "–"]
    assert "time" not in tables.stages(shares, None)[0]


def test_stages_that_overlap_are_told_so_where_their_shares_stand() -> None:
    shares = {"head": Share(0.87, 0.8, 0.9), "attention": Share(0.24, 0.2, 0.3),
              REST: Share(-0.11, -0.2, -0.05)}  # fmt: skip
    last = tables.stages(shares, step=0.004)[-1]
    assert last["stage"] == "sum of the stages: they overlap, for each was left out by itself"
    assert (last["share of a step"], last["time"]) == ("111%", "–")
    apart = shares | {"head": Share(0.6, 0.5, 0.7)}
    assert len(tables.stages(apart, None)) == 3


def test_the_names_of_the_fused_decoder_are_told_where_they_ran() -> None:
    said = sentences.of_names(["transformers", ALL_LOGITS, FUSED])
    assert said == (
        "The fused decoder runs as `fused:all-logits` (the file's weights as they are), `fused` ("
        "the same with the head screened)."
    )
    assert sentences.of_names(["transformers"]) == ""


def passes(step: float, two: float) -> Comparison:
    times = {STEP: step, again(STEP): step, "2 rows": two}
    one = {name: [Trace(0.0, (1.0, 1.0 + time))] * ROUNDS for name, time in times.items()}
    return Comparison(STEP, one, {})


def test_rows_cost_their_time_over_that_of_one_row() -> None:
    rows = tables.more_rows(passes(0.004, 0.005), [2])
    assert [row["T(k) / T(1)"] for row in rows] == ["1", "1.25 [1.25, 1.25]"]


def test_bytes_that_fit_a_cache_have_no_rate_on_a_datasheet() -> None:
    rows = {str(row["machine"]): row for row in tables.elsewhere({"small": 100e6, "large": 1e9})}
    mi300x, epyc = (next(rows[n] for n in rows if word in n) for word in ("MI300X", "EPYC"))
    assert epyc["small"] == "fits its cache"
    assert epyc["large"] == "461"
    assert mi300x["small"] == "172,000"  # its vendor prints the bandwidth of the cache
    assert rows["NVIDIA H100 SXM 80 GB"]["small"] == "33,500"


# Sentences


def test_the_rows_that_share_the_bytes_come_before_transformers() -> None:
    nbytes = {"transformers": 5e8, "llama.cpp": 1.01e8, "llama.cpp:q4_0": 1e8, ALL_LOGITS: 1e8}
    found = ladder(
        {"llama.cpp": 0.3, "llama.cpp:q4_0": 0.2, ALL_LOGITS: 0.1}, nbytes,
        engines={"llama.cpp:q4_0": CHANGED},
    )  # fmt: skip
    told = sentences.against_others(found, ALL_LOGITS, ["transformers", *list(nbytes)[1:3]])
    first, second = told.split(" transformers in ")
    assert first == (
        f"`llama.cpp` reads the same weights as they are: `{ALL_LOGITS}` is "
        "**3.00x [3.00, 3.00] as fast**."
    )
    assert second.startswith("float32 reads 5.0 times the bytes")
    assert "is 10.0" in second


def test_where_no_engine_shares_the_bytes_it_is_said() -> None:
    found = ladder({ALL_LOGITS: 0.1}, {"transformers": 5e8, ALL_LOGITS: 1e8})
    told = sentences.against_others(found, ALL_LOGITS, ["transformers"])
    assert told.startswith("No other engine of this run reads the same weights")
    assert "bfloat16" not in told


@pytest.mark.parametrize(
    ("screened", "noisy", "words"),
    [
        (0.09, "", "lies above 1"),
        (0.11, "", "below 1, so screening cost time"),
        (0.098, FUSED, "includes 1: this run shows no gain"),
    ],
)
def test_screening_tells_what_its_run_showed(screened: float, noisy: str, words: str) -> None:
    nbytes = {FUSED: 9e7, ALL_LOGITS: 1e8}
    found = ladder({FUSED: screened, ALL_LOGITS: 0.1}, nbytes, noisy=noisy)
    told = sentences.screening(found)
    assert "10.0% fewer bytes" in told
    assert words in told


def test_a_control_that_differs_takes_the_verdicts_back() -> None:
    found = ladder({}).comparison
    assert "1.00x [1.00, 1.00]" in sentences.control(found)
    assert "no verdict" not in sentences.control(found)
    found.traces[found.control] = [Trace(0.0, (2.0, 4.0), 4, (1, 2))] * ROUNDS
    assert "no verdict" in sentences.control(found)


def test_a_step_is_told_once_with_what_reading_takes_of_it() -> None:
    found = ladder({FUSED: 0.004}, {FUSED: 1e8}, bare={FUSED: 0.003})
    told = sentences.of_the_step(found, FUSED)
    assert told.startswith(f"A decode step of `{FUSED}` took 4 ms [4 ms, 4 ms].")
    assert "Reading its 100 MB and nothing else took 3 ms" in told
    assert "75% [75, 75] of the step" in told
    assert "Reading" not in sentences.of_the_step(ladder({FUSED: 0.004}), FUSED)


def test_the_second_time_of_a_step_is_told_with_the_reason() -> None:
    told = sentences.two_moments(interval([0.003] * 5), interval([0.004] * 5))
    assert "took 3 ms [3 ms, 3 ms] there, and 4 ms [4 ms, 4 ms] in the rounds" in told
    assert "in this process" in told


def test_stages_are_summed_where_they_were_measured() -> None:
    shares = {"layer products": Share(0.6, 0.5, 0.7), "head": Share(0.25, 0.2, 0.3),
              "attention": Share(0.01, -0.1, 0.1), REST: Share(0.1, 0.05, 0.2)}  # fmt: skip
    told = sentences.of_the_stages(shares)
    assert told == "Of a step, the matrix products (layer products, head) take 85%."
    assert "measurable" in sentences.of_the_stages({"attention": shares["attention"]})
    overlapping = shares | {"attention": Share(0.25, 0.2, 0.3)}
    assert "Together that is 110%" in sentences.of_the_stages(overlapping)


def test_a_long_context_is_told_as_a_ratio_to_the_usual_one() -> None:
    times = {"context 16": 0.1, "context 16 (again)": 0.1, "context 64": 0.15}
    traces = {name: [Trace(0.0, (1.0, 1.0 + t))] * ROUNDS for name, t in times.items()}
    found = Comparison("context 16", traces, {})
    told = sentences.long_context(found, 16, 64, [reading(1e8), reading(2e8)])
    assert "reads 200 MB, 2.00 times as much as at 16" in told
    assert "1.50 [1.50, 1.50] times as long" in told


def test_the_band_falls_away_where_the_slowest_rate_is_not_known() -> None:
    machine = replace(MACHINE, bandwidth_points={1: Reading(1e9, 1e9, 0.0)})
    (row,) = tables.decode(lab(machine), ladder({"plain": 0.5}, {"plain": 1e8}), ["plain"])
    assert row["limit, tok/s"] == "10"
