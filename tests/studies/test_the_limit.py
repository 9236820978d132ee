"""Notebook 15: its variants, what each must read, and which sentences it may say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from labkit.bench.client import Source
from labkit.bench.variants import BARE, Variant
from labkit.limits.cost import decode_cost
from labkit.model.load import locate
from labkit.optimize.fused import AS_IS, available
from labkit.studies import the_limit
from labkit.studies import the_limit_measured as measured
from labkit.studies import the_limit_variants as variants
from labkit.studies.fused_stages import CALL, REST
from labkit.studies.the_limit_variants import ALL_LOGITS, FUSED, PEERS, PLAIN_OURS, Q8
from labkit.timing.compare import Comparison, again
from labkit.timing.trace import Trace
from tests.tiny import CONFIG, save_tiny_model

NO_FILE = Source("a model", Path("nowhere"), None)
GGUF = Source("a model", Path("nowhere"), Path("model.gguf"))


# Variants


def test_transformers_is_always_first_and_a_file_brings_its_own_variants() -> None:
    assert variants.names(NO_FILE, "q8_0", with_fused=False, with_peers=False) == [*PLAIN_OURS]
    assert variants.names(NO_FILE, "q8_0", True, False) == [*PLAIN_OURS, Q8]
    assert variants.names(GGUF, AS_IS, True, False) == [*PLAIN_OURS, BARE, ALL_LOGITS, FUSED, Q8]


def test_only_peers_that_are_installed_and_read_this_model_run(monkeypatch) -> None:
    monkeypatch.setattr(Variant, "missing", lambda self: None)
    assert variants.names(GGUF, "q8_0", False, True) == [*PLAIN_OURS, *PEERS]
    reads_no_gguf = [name for name in PEERS if "llama" not in name]
    assert variants.names(NO_FILE, "q8_0", False, True) == [*PLAIN_OURS, *reads_no_gguf]
    monkeypatch.setattr(Variant, "missing", lambda self: "not installed")
    assert variants.names(GGUF, "q8_0", False, True) == [*PLAIN_OURS]


def test_bytes_of_a_step_are_counted_for_each_form_of_the_weights() -> None:
    fused: Any = SimpleNamespace(all_logits_bytes=900.0, weight_bytes=700.0)
    found = variants.read_bytes(GGUF, CONFIG, "float32", fused, 10)
    kv = 10 * CONFIG.kv_bytes_per_token(2)
    weights = decode_cost(CONFIG, 0, dtype="bfloat16").weight_bytes
    assert found["float32"] == decode_cost(CONFIG, 10, dtype="float32").read_bytes
    assert found["q8_0"] == pytest.approx(weights * 8.5 / 16 + kv)  # 32 int8 and a 16-bit scale
    assert found["q4_0"] == pytest.approx(weights * 4.5 / 16 + kv)
    assert found["the file as it is"] == 900 + kv
    assert found["the file, its head screened"] == 700 + kv


def test_a_head_that_is_not_screened_has_no_row_of_its_own() -> None:
    fused: Any = SimpleNamespace(all_logits_bytes=900.0, weight_bytes=900.0)
    found = variants.read_bytes(GGUF, CONFIG, "float32", fused, 10)
    assert "the file, its head screened" not in found
    assert "the file as it is" not in variants.read_bytes(NO_FILE, CONFIG, "float32", fused, 10)


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


# Tokens of the rounds


def trace(step: float, tokens: tuple[int, ...]) -> Trace:
    return Trace(0.0, tuple(step * (n + 1) for n in range(len(tokens))), 4, tokens)


def ladder(**steps: float) -> Comparison:
    """Five rounds of the variants named, all with the same tokens, with probes of 100 bytes/s."""
    names = ["transformers", again("transformers"), *steps]
    times = {"transformers": 1.0, again("transformers"): 1.0} | steps
    traces = {name: [trace(times[name], (5, 6, 7)) for _ in range(5)] for name in names}
    rates = {name: [100.0] * 5 for name in names}
    return Comparison("transformers", traces, {}, rates)


def test_same_tokens_counts_them_all_and_finds_the_one_that_differs() -> None:
    comparison = ladder(plain=0.5)
    assert variants.same_tokens(comparison, "plain") == {"lossless": True, "tokens_compared": 15}
    comparison.traces["plain"][3] = trace(0.5, (5, 6, 8))
    assert not variants.same_tokens(comparison, "plain")["lossless"]
    assert variants.equal_runs(comparison, "transformers", "plain") == (4, 5)


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
def study(tiny_model: str) -> the_limit.Study:
    return the_limit.Study(
        model=tiny_model, prompt_tokens=12, new_tokens=4, peers=False, quality_tokens=64,
        row_counts=[2],
    )  # fmt: skip


def test_without_the_kernel_the_study_says_so_and_goes_on(
    tiny_model: str, said: list[str], monkeypatch
) -> None:
    monkeypatch.setattr(measured, "native", lambda where, weights: (None, "no compiler"))
    found = the_limit.Study(model=tiny_model, device="cuda", prompt_tokens=12, new_tokens=4)
    found.same_answer()
    found.why()
    assert "not cuda" in said[0]
    assert "no compiler" in said[1]
    assert "left out" in said[2]
    assert (found.judged, found.stages, found.pass_seconds) == ({}, {}, {})
    assert Q8 not in found.names


def test_a_fraction_of_the_limit_is_bytes_over_bandwidth_over_time(
    study: the_limit.Study,
) -> None:
    vars(study)["ladder"] = measured.Ladder(ladder(plain=0.5), {"plain": 25.0}, {})
    assert study.measured == ["transformers", "plain"]
    assert study.least("plain")(100.0) == 0.25
    assert study.shares == {"plain": pytest.approx(0.5)}
    assert study.rates["plain"] == pytest.approx(2.0)
    assert study._row("transformers")["of its limit"] == "–"


def test_the_bare_read_is_told_beside_the_decoder_that_reads_the_same(
    study: the_limit.Study, said: list[str], monkeypatch
) -> None:
    drawn: list[dict[str, float]] = []
    monkeypatch.setattr(the_limit.figures, "rates", lambda rates, *_: drawn.append(rates))
    comparison = ladder(**{BARE: 0.25, ALL_LOGITS: 0.5})
    nbytes = {BARE: 20.0, ALL_LOGITS: 20.0}
    monkeypatch.setitem(vars(study), "ladder", measured.Ladder(comparison, nbytes, {}))
    study.against_limit()
    assert "20 B" in said[1]
    assert "80% of the limit" in said[1]  # 0.2 s of 0.25 s
    assert "reached 40%: it is 50% as fast as the bare read" in said[1]
    assert list(drawn[0]) == ["transformers", BARE, ALL_LOGITS]
    assert study.engines == ["transformers", ALL_LOGITS]


def test_screening_that_changes_a_token_stops_the_study(
    study: the_limit.Study, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LABKIT_RUN_DIR", str(tmp_path))
    comparison = ladder(**{FUSED: 0.1, ALL_LOGITS: 0.2})
    comparison.traces[FUSED][2] = trace(0.1, (5, 6, 8))
    monkeypatch.setattr(measured, "measure", lambda *_: (comparison, {}, {}))
    with pytest.raises(AssertionError, match="screening"):
        study.quality  # noqa: B018


def test_each_time_of_a_step_is_told_with_its_measurement(
    study: the_limit.Study, said: list[str], monkeypatch
) -> None:
    if study.missing:
        pytest.skip(study.missing)
    monkeypatch.setitem(vars(study), "ladder", measured.Ladder(ladder(**{Q8: 0.004}), {}, {}))
    stages = {"layer products": 0.002, "head": 0.001, "attention": 0.0, CALL: 0.001, REST: -0.0005}
    monkeypatch.setitem(vars(study), "stages", stages)
    monkeypatch.setitem(vars(study), "pass_seconds", {1: 0.003, 2: 0.004})
    study.why()
    told = " ".join(said)
    assert f"4 ms a token of `{Q8}`, interleaved with the other variants" in told
    assert "3.5 ms by itself, interleaved with passes that leave stages out" in told
    assert "3 ms by itself, interleaved with passes of more rows" in told
    assert "attention no measurable time" in told
    assert "500 µs more than the step" in told


def test_rows_of_one_pass_and_rows_one_by_one_give_the_same_bits(study: the_limit.Study) -> None:
    if study.missing:
        pytest.skip(study.missing)
    assert study.same_bits == 96
    assert study.judged["lossless"] is False
    assert list(study.pass_seconds) == [1, 2]
    assert sum(study.stages.values()) > 0
