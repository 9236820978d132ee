"""Notebook 15: its variants, what each must read, what is judged, and what is saved."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from labkit.bench.client import Source
from labkit.bench.costs import Products
from labkit.bench.variants import VARIANTS, Variant
from labkit.limits.cost import decode_cost
from labkit.model.load import locate
from labkit.optimize.fused import AS_IS, available
from labkit.quality.tasks import Score
from labkit.studies import the_limit
from labkit.studies import the_limit_measured as measured
from labkit.studies import the_limit_variants as variants
from labkit.studies.fused_stages import STEP
from labkit.studies.the_limit_variants import ALL_LOGITS, FUSED, PEERS, PLAIN_OURS, Q8
from tests.ladder import MACHINE, ladder, loaded, reading, trace
from tests.tiny import CONFIG, save_tiny_model

NO_FILE = Source("a model", Path("nowhere"), None)
GGUF = Source("a model", Path("nowhere"), Path("model.gguf"))
JUDGED = {"positions": 64, "top1_agreement": 1.0, "kl_mean": 0.0}


# Variants


def test_transformers_is_always_first_and_a_file_brings_its_own_variants() -> None:
    assert variants.names(NO_FILE, "q8_0", with_fused=False, with_peers=False) == [*PLAIN_OURS]
    assert variants.names(NO_FILE, "q8_0", True, False) == [*PLAIN_OURS, Q8]
    assert variants.names(GGUF, AS_IS, True, False) == [*PLAIN_OURS, ALL_LOGITS, FUSED, Q8]
    assert {*PLAIN_OURS, ALL_LOGITS, FUSED, Q8, *PEERS} <= VARIANTS.keys()


def test_only_peers_that_are_installed_and_read_this_model_run(monkeypatch) -> None:
    monkeypatch.setattr(Variant, "missing", lambda self: None)
    assert variants.names(GGUF, "q8_0", False, True) == [*PLAIN_OURS, *PEERS]
    reads_no_gguf = [name for name in PEERS if not VARIANTS[name].needs_gguf]
    assert variants.names(NO_FILE, "q8_0", False, True) == [*PLAIN_OURS, *reads_no_gguf]
    monkeypatch.setattr(Variant, "missing", lambda self: "not installed")
    assert variants.names(GGUF, "q8_0", False, True) == [*PLAIN_OURS]


def test_bytes_of_a_step_are_counted_for_each_form_of_the_weights() -> None:
    fused: Any = SimpleNamespace(all_logits_bytes=900.0, weight_bytes=700.0)
    found = variants.read_bytes(GGUF, CONFIG, fused, 10)
    kv = 10 * CONFIG.kv_bytes_per_token(2)
    weights = decode_cost(CONFIG, 0, dtype="bfloat16").weight_bytes
    assert found["float32"] == decode_cost(CONFIG, 10, dtype="float32").read_bytes
    assert found["all in q8_0"] == pytest.approx(weights * 8.5 / 16 + kv)  # 32 int8, 16-bit scale
    assert found["all in q4_0"] == pytest.approx(weights * 4.5 / 16 + kv)
    assert found["the file as it is (fused:all-logits)"] == 900 + kv
    assert found["the file, its head screened (fused)"] == 700 + kv


def test_a_head_that_is_not_screened_has_no_row_of_its_own() -> None:
    fused: Any = SimpleNamespace(all_logits_bytes=900.0, weight_bytes=900.0)
    found = variants.read_bytes(GGUF, CONFIG, fused, 10)
    assert [name for name in found if name.startswith("the file")] == [
        "the file as it is (fused:all-logits)"
    ]
    without = variants.read_bytes(NO_FILE, CONFIG, fused, 10)
    assert not any(name.startswith("the file") for name in without)


def test_where_the_kernel_is_missing_the_reason_is_told(monkeypatch) -> None:
    monkeypatch.setattr(variants, "available", lambda: "no compiler")
    assert variants.native(NO_FILE, "q8_0") == (None, "no compiler")


def test_a_model_that_the_kernel_cannot_serve_is_told(llama) -> None:
    if reason := available():
        pytest.skip(reason)
    _, directory, _ = locate(llama.model.directory)  # of sizes that are no multiple of a block
    fused, reason = variants.native(Source(str(directory), directory, None), "q8_0")
    assert fused is None
    assert reason


# Answers


def test_equal_tokens_alone_are_no_proof() -> None:
    comparison = ladder({"plain": 0.5}).comparison
    counts = {"tokens_equal": True, "tokens_compared": 15}
    assert variants.quality(comparison, "plain", None) == counts
    found = variants.quality(comparison, "plain", JUDGED)
    assert found == counts | JUDGED | {"lossless": True}
    less = JUDGED | {"top1_agreement": 0.99}
    assert not variants.quality(comparison, "plain", less)["lossless"]


def test_one_token_that_differs_is_found() -> None:
    comparison = ladder({"plain": 0.5}).comparison
    comparison.traces["plain"][3] = trace(0.5, (5, 6, 8))
    assert variants.same_tokens(comparison, "plain") == (False, 15)
    assert variants.equal_runs(comparison, "transformers", "plain") == (4, 5)
    assert not variants.quality(comparison, "plain", JUDGED)["lossless"]


def test_two_variants_are_compared_within_rounds() -> None:
    comparison = ladder({"plain": 0.5, FUSED: 0.1}).comparison
    assert variants.over(comparison, FUSED, "plain").value == pytest.approx(5)


def test_an_engine_is_named_with_its_version_build_and_link() -> None:
    one = loaded("Q4_1 as in the file")
    assert variants.engine("llama.cpp:q4_0", one) == {
        "name": "llama.cpp", "version": "1.2", "build": "ready-made wheel",
        "link": "https://example.org", "weights": "Q4_1 as in the file",
    }  # fmt: skip
    assert variants.engine("transformers:bf16", one)["name"] == "transformers"
    ours = variants.engine(FUSED, one)
    assert ours["name"] == "labkit"
    assert ours["version"] != "1.2"  # of labkit, where the worker tells torch's


# The study


@pytest.fixture
def said(monkeypatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(the_limit, "say", found.append)
    monkeypatch.setattr(the_limit, "table", lambda rows, caption="": found.append(caption))
    return found


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def study(tiny_model: str, tmp_path: Path, monkeypatch) -> the_limit.Study:
    monkeypatch.setenv("LABKIT_RUN_DIR", str(tmp_path))
    monkeypatch.setattr("labkit.studies.lab.measure_hardware", lambda *_, **__: MACHINE)
    return the_limit.Study(
        model=tiny_model, prompt_tokens=12, new_tokens=4, peers=False, quality_tokens=64,
        row_counts=[2], rounds=5,
    )  # fmt: skip


def test_without_the_kernel_the_study_says_so_and_goes_on(
    tiny_model: str, said: list[str], monkeypatch
) -> None:
    monkeypatch.setattr("labkit.studies.lab.measure_hardware", lambda *_, **__: MACHINE)
    monkeypatch.setattr(measured, "native", lambda where, weights: (None, "no compiler"))
    monkeypatch.setattr(measured, "judge_variants", lambda *_: ({}, {"plain": "it ended"}))
    lengths = {"prompt_tokens": 12, "new_tokens": 4, "long_context": 32}
    found = the_limit.Study(model=tiny_model, device="cuda", dtype="bfloat16", **lengths)
    found.same_answer()
    found.why()
    told = " ".join(said)
    assert "not cuda" in said[0]
    assert "float32 here, not bfloat16" in said[1]
    assert "no compiler" in said[2]
    assert "**plain** could not be judged: it ended" in told
    assert "left out" in said[-1]
    assert (found.passes, found.contexts, found.same_bits) == (None, None, 0)
    assert Q8 not in found.names


def test_screening_that_changes_a_token_stops_the_study(
    study: the_limit.Study, monkeypatch
) -> None:
    found = ladder({FUSED: 0.1, ALL_LOGITS: 0.2})
    found.comparison.traces[FUSED][2] = trace(0.1, (5, 6, 8))
    monkeypatch.setattr(measured, "measure", lambda *_: found)
    monkeypatch.setattr(measured, "judge_variants", lambda *_: ({}, {}))
    with pytest.raises(AssertionError, match="screening"):
        study.quality  # noqa: B018


def test_screening_changes_no_logits_so_both_are_judged_once(
    study: the_limit.Study, monkeypatch
) -> None:
    asked: list[list[str]] = []

    def judging(names: list[str], *_: Any) -> Any:
        asked.append(names)
        return {name: dict(JUDGED) for name in names}, {}

    def scoring(names: list[str], *given: Any) -> Any:
        asked.append([*names, str(len(given[-1]))])
        return {FUSED: {"all": Score(3, 4)}}, {"plain": "it ended"}

    monkeypatch.setattr(measured, "judge_variants", judging)
    monkeypatch.setattr(measured, "score_variants", scoring)
    study.names, study.questions = [*PLAIN_OURS, ALL_LOGITS, FUSED], 2
    assert study.judged.found[ALL_LOGITS] == study.judged.found[FUSED]
    assert study.judged.found[FUSED]["task_score"] == 0.75
    assert "task_score" not in study.judged.found["plain"]
    assert study.judged.failed == {"plain": "it ended"}
    assert asked == [[*PLAIN_OURS, FUSED], [*PLAIN_OURS, FUSED, "4"]]


def told_by(study: the_limit.Study, monkeypatch, **more: Any) -> None:
    """Give a study a ladder whose times are known."""
    nbytes = {"transformers": 4e8, "plain": 4e8, Q8: 1e8}
    engines = {Q8: loaded("Q8_0, rounded", same=False, weight_bytes=9e7), "plain": loaded()}
    found = ladder({"plain": 0.8, Q8: 0.2}, nbytes, {Q8: 0.15}, engines, **more)
    found.costs[Q8, "ttft"] = replace(reading(1.0, "int8"), matrix_flops=4e11)
    monkeypatch.setitem(vars(study), "ladder", found)
    judged = {name: dict(JUDGED) for name in ("transformers", "plain", Q8)}
    monkeypatch.setitem(vars(study), "judged", measured.Judged(judged, {}))


def test_findings_carry_true_bytes_formats_engines_and_answers(
    study: the_limit.Study, said: list[str], monkeypatch
) -> None:
    if study.missing:
        pytest.skip(study.missing)
    told_by(study, monkeypatch)
    found = {(one.variant, one.phase): one for one in study.findings()}
    one = found[Q8, "decode"]
    assert (one.bytes_read, one.weights) == (1e8, "Q8_0, rounded")
    assert (one.model["weight_bytes"], one.model["dtype"]) == (9e7, "Q8_0, rounded")
    assert one.engine["name"] == "labkit"
    assert one.engine["baseline"]["name"] == "transformers"
    assert one.engine["baseline"]["weights"] == "float32"
    assert one.quality["positions"] == 64
    assert one.limit == pytest.approx(10.0)
    assert one.limit_low == pytest.approx(5.0)
    assert one.of_bare_read == pytest.approx(0.75)
    plain = found["plain", "decode"]
    assert plain.limit == pytest.approx(2.5)
    assert plain.limit_note is None
    prompt = found[Q8, "prefill"]
    assert prompt.limit == pytest.approx(120)  # 12 tokens in 0.1 s of int8 products
    assert found["plain", "prefill"].limit_note == "torch multiplies in float32"


def test_the_page_tells_the_step_of_the_rounds_and_only_shares_of_it(
    study: the_limit.Study, said: list[str], monkeypatch
) -> None:
    if study.missing:
        pytest.skip(study.missing)
    told_by(study, monkeypatch)
    study.long_context = 32
    study.why()
    told = " ".join(said)
    assert told.count("A decode step of") == 1
    assert f"A decode step of `{Q8}` took 200 ms" in told
    assert "and 200 ms [200 ms, 200 ms] in the rounds" in told
    assert "At a context of 32 tokens" in told
    assert study.passes is not None
    assert set(study.passes.variants) >= {STEP, "2 rows", "without the head"}


def test_the_page_shows_decoding_before_the_prompt(
    study: the_limit.Study, said: list[str], monkeypatch
) -> None:
    if study.missing:
        pytest.skip(study.missing)
    told_by(study, monkeypatch)
    drawn: list[tuple[dict[str, float], ...]] = []
    monkeypatch.setattr(the_limit.figures, "rates", lambda *given: drawn.append(given))
    study.against_limit()
    assert said[0].startswith("Decoding 4 tokens after 12, 5 rounds")
    assert "**75% [75, 75] of the bare read**" in " ".join(said)
    assert said[-1].startswith("Reading the prompt of 12 tokens")
    rates, limits, bare, ours = drawn[0][:4]
    assert rates == pytest.approx({"transformers": 1.0, "plain": 1.25, Q8: 5.0})
    assert limits[Q8] == pytest.approx(10.0)
    assert bare == pytest.approx({Q8: 1 / 0.15})
    assert set(ours) == {"transformers", "plain", Q8}
    assert study.arithmetic[Q8] == Products("int8", study.arithmetic[Q8].says)


def test_what_was_measured_is_kept(study: the_limit.Study, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(measured, "measure", lambda *_: ladder({"plain": 0.5}))
    assert study.engines == ["transformers", "plain"]
    assert study.rates == pytest.approx({"transformers": 1.0, "plain": 2.0})
    (kept,) = (tmp_path / "traces" / "15_the_limit").glob("ladder.json")
    assert len(json.loads(kept.read_text())["rounds"]["plain"]) == 5


def test_rows_of_one_pass_and_rows_one_by_one_give_the_same_bits(study: the_limit.Study) -> None:
    if study.missing:
        pytest.skip(study.missing)
    assert study.same_bits == 96
    assert study.stepper is study.fused
