"""The rungs, what each must read, and what the study tells of a token's parts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from labkit.errors import ParameterError
from labkit.limits import datasheet
from labkit.limits.calculator import shapes
from labkit.limits.cost import decode_cost
from labkit.limits.roofline import limit
from labkit.model.rows import Rows
from labkit.optimize.graph_rewriting import static
from labkit.report.told.compared import Least
from labkit.studies import graph_rewriting, graph_rewriting_earlier
from labkit.studies import graph_rewriting_rungs as rungs
from labkit.studies import graph_rewriting_sentences as sentences
from labkit.studies.graph_rewriting_earlier import MERGED_PRODUCTS, PRODUCTS, Earlier
from labkit.studies.graph_rewriting_prefill import ALL, HEAD, LAST, ONE_ROW
from labkit.studies.operations import count_operations, matrices_only
from labkit.studies.predictions import Prediction
from labkit.timing.compare import Comparison, again
from labkit.timing.statistics import interval
from labkit.timing.trace import Trace
from tests.tiny import save_tiny_model, tiny_decoder

IDS = [5, 3, 8, 1, 9, 2, 7, 4]


def logits_of(decoder: rungs.Rung) -> torch.Tensor:
    """A prefill of all but three tokens, then one row after another: (tokens, vocab)."""
    cache = decoder.new_cache(1, 32)
    parts = [decoder(Rows.prefill(IDS[:-3], all_logits=True), cache)]
    for i in range(len(IDS) - 3, len(IDS)):
        parts.append(decoder(Rows.decode({0: (IDS[i], i)}), cache))
    return torch.cat(parts)


def test_rungs_are_the_plain_decoder_each_rewrite_alone_then_the_stack() -> None:
    found = rungs.eager(tiny_decoder())
    assert list(found) == [rungs.PLAIN, *rungs.REWRITES, *rungs.STACK]
    assert rungs.matrices(found[rungs.PLAIN]) == 2 * 7 + 1
    merged = {name for name, rung in found.items() if rungs.matrices(rung) == 2 * 4 + 1}
    assert merged == {rungs.MERGED, *rungs.STACK}


def test_a_rung_in_static_shapes_is_known_by_the_decoder_within() -> None:
    decoder = tiny_decoder()
    assert rungs.inner(decoder) is decoder
    assert rungs.inner(rungs.alone(decoder)[rungs.STATIC]) is decoder


@pytest.mark.parametrize("tied", [True, False])
def test_what_a_rung_reads_is_counted_from_its_tensors(tied: bool) -> None:
    decoder = tiny_decoder(tied_head=tied)
    found = rungs.eager(decoder)
    costs = {name: rungs.cost_of(rung, 10, 32) for name, rung in found.items()}
    plain = decode_cost(decoder.config, 10)
    assert costs[rungs.PLAIN] == costs[rungs.MERGED] == costs[rungs.TABLES] == plain
    config = decoder.config
    norms = 4 * config.hidden_size * (2 * config.layers + 1)
    row = 4 * config.hidden_size * tied  # the head is a table of its own now
    assert costs[rungs.FOLDED].weight_bytes == plain.weight_bytes - norms + row
    assert costs[rungs.STATIC].kv_read_bytes == decode_cost(config, 31).kv_read_bytes


def test_a_compiled_step_gives_the_same_logits() -> None:
    decoder = tiny_decoder()
    compiled = rungs.compiled(decoder, 32, fresh=False)
    assert compiled.seconds > 0
    assert rungs.operations_of(compiled) > compiled.kernels > 0
    assert torch.allclose(logits_of(decoder), logits_of(compiled.rung), atol=1e-4)


def test_overheads_are_the_operations_of_all_layers_over_the_limit_of_the_bytes() -> None:
    machine = datasheet.machine("h100-sxm")
    (row,) = rungs.overheads({"one": machine}, operations_a_layer=10, price=1e-6)
    assert row.pop("machine") == "one"
    # Operations are those of dense layers.
    assert list(row) == [name for name, shape in shapes().items() if not shape.experts]
    shape = shapes()["llama-3.1-8b"]
    least = limit(decode_cost(shape, 1024, dtype="bfloat16"), machine).seconds
    assert row["llama-3.1-8b"] == pytest.approx(10 * shape.layers * 1e-6 / least)


def test_a_model_that_fits_the_last_level_cache_has_no_overhead_over_a_limit() -> None:
    epyc = datasheet.machine("epyc-9654")
    (row,) = rungs.overheads({"one": epyc}, operations_a_layer=10, price=1e-6)
    assert row["smollm2-135m"] is None  # 270 MB in bfloat16, in 384 MB
    assert row["llama-3.1-8b"] is not None


PLAIN_SECONDS, PRODUCTS_SECONDS, MERGED_SECONDS = 0.010, 0.006, 0.005


def of(times: dict[str, float]) -> Comparison:
    """A comparison whose variants take the same seconds a token in each round."""
    traces = {name: [Trace(0.0, (0.0, time))] * 5 for name, time in times.items()}
    traces[again(rungs.PLAIN)] = traces[rungs.PLAIN]
    return Comparison(rungs.PLAIN, traces, {})


def earlier(products: float = PRODUCTS_SECONDS, least: float = 0.0) -> Earlier:
    """What is known before the rungs are compared, of a machine that reads 1 GB/s.

    least: seconds, the limit of every rung.
    """
    eager = rungs.eager(tiny_decoder())
    hardware = SimpleNamespace(bandwidth=lambda _: 1e9)
    lab = SimpleNamespace(hardware=hardware, least=lambda _: Least(least))
    costs = {name: rungs.cost_of(rung, 8, 8) for name, rung in eager.items()}
    operations = {name: 100 - 10 * k for k, name in enumerate(eager)}
    found = Earlier(lab, eager, 5, lambda _: None, costs, operations)
    times = {rungs.PLAIN: PLAIN_SECONDS, PRODUCTS: products, MERGED_PRODUCTS: MERGED_SECONDS}
    vars(found)["comparison"] = of(times)
    return found


def test_an_operation_takes_its_part_of_what_the_products_leave_of_a_token() -> None:
    known = earlier()
    dispatched = count_operations(matrices_only(known.rungs[rungs.PLAIN]))
    assert known.others(rungs.PLAIN) == 100 - dispatched
    assert known.overhead == pytest.approx(0.004 / (100 - dispatched))
    assert known.part.value == pytest.approx(0.6)
    assert known.merging.value == pytest.approx(6 / 5)


def test_a_rung_is_predicted_from_its_products_its_operations_and_its_bytes() -> None:
    known = earlier()
    assert known.expected(rungs.PLAIN) == pytest.approx(PLAIN_SECONDS)
    for name in (rungs.MERGED, rungs.FOLDED, *rungs.STACK):
        merged = rungs.matrices(known.rungs[name]) == 2 * 4 + 1
        work = matrices_only(rungs.inner(known.rungs[rungs.MERGED if merged else rungs.PLAIN]))
        others = known.operations[name] - count_operations(work)
        more = known.costs[name].read_bytes - known.costs[rungs.PLAIN].read_bytes
        products = MERGED_SECONDS if merged else PRODUCTS_SECONDS
        expected = products + others * known.overhead + more / 1e9
        assert known.expected(name) == pytest.approx(expected), name
        assert known.expected_speedup(name) == pytest.approx(PLAIN_SECONDS / expected)


def test_no_rung_is_predicted_below_its_limit_unless_the_plain_decoder_beat_it() -> None:
    free, bound = earlier(), earlier(least=PLAIN_SECONDS)
    assert free.expected(rungs.MERGED) < PLAIN_SECONDS
    assert bound.expected(rungs.MERGED) == PLAIN_SECONDS
    assert bound.limit(rungs.MERGED) == Least(PLAIN_SECONDS)
    beaten = earlier(least=2 * PLAIN_SECONDS)
    assert beaten.limit(rungs.MERGED) is None
    assert beaten.expected(rungs.MERGED) == free.expected(rungs.MERGED)


def test_what_does_not_run_operation_by_operation_has_no_prediction() -> None:
    assert earlier().expected(rungs.COMPILED) is None
    assert earlier().expected_speedup(rungs.GRAPH) is None


def test_products_as_slow_as_the_token_leave_no_rest_and_no_prediction() -> None:
    known = earlier(products=0.011)
    assert known.overhead is None
    assert known.expected(rungs.MERGED) is None
    told = sentences.of_overhead(0.011, known.part, None, 60, known.overhead)
    assert "no measurable rest" in told
    assert "-" not in told


def test_predictions_are_held_against_the_rungs_and_the_prefill(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    rows: list[dict[str, object]] = []
    monkeypatch.setattr(graph_rewriting_earlier, "say", said.append)
    monkeypatch.setattr(graph_rewriting_earlier, "table", lambda found, caption: rows.extend(found))
    known = earlier()
    speedup = known.expected_speedup(rungs.MERGED)
    found = of({rungs.PLAIN: 0.030, rungs.MERGED: 0.030 / speedup, rungs.COMPILED: 0.001})
    prefill = Prediction("prefill", 2.0, interval([1.0, 1.01, 0.99, 1.0, 1.0]))
    known.hold(found, prefill)
    assert [row["variant"] for row in rows] == [rungs.MERGED, "prefill"]
    assert rows[0]["speedup held"] != "no"
    assert rows[0]["time held"] == rows[1]["speedup held"] == "no"
    assert "of 2 lie inside the measured interval" in said[0]
    assert "The others: prefill (+100.0%). For comparison, had each been" in said[0]
    assert "took 3.00 times as long as predicted" in said[1]  # the machine changed, not the rung


def test_a_rewrite_that_the_interval_does_not_show_is_not_told_as_a_change() -> None:
    unsure, sure = interval([0.9, 1.1, 0.95, 1.2, 1.0]), interval([1.2, 1.21, 1.2, 1.19, 1.2])
    assert "no difference is shown" in sentences.of_rewrite("x", 5, None, unsure)
    told = sentences.of_rewrite("x", -5, sure, sure)
    assert "adds 5 operations" in told
    assert "lies above 1" in told


def test_compiling_that_the_rounds_do_not_show_to_pay_has_no_number_of_tokens() -> None:
    parts = ("compiled step", 90, 30, 1900, 45.0)
    assert "45,000 tokens" in sentences.of_compiled(*parts, paid=45_000)
    assert "no number of tokens" in sentences.of_compiled(*parts, paid=None)


LENGTHS = {"prompt_tokens": 8, "new_tokens": 3, "check_tokens": 8, "prefill_tokens": 8}


@pytest.fixture(scope="module")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> graph_rewriting.Study:
    model = str(save_tiny_model(tmp_path_factory.mktemp("model")))
    return graph_rewriting.Study(model, "cpu", **LENGTHS, compiled=False, rounds=5)


def test_predictions_are_told_before_anything_is_compared(tiny_study) -> None:
    tiny_study.predict()
    assert "comparison" not in vars(tiny_study)
    assert "comparison" not in vars(tiny_study.prefill)
    assert set(tiny_study.earlier.comparison.variants) == {rungs.PLAIN, PRODUCTS, MERGED_PRODUCTS}


def test_the_earlier_rounds_have_other_prompts(tiny_study) -> None:
    asked: list[int] = []
    known = dataclasses.replace(tiny_study.earlier, decode=asked.append)
    for number in range(known.rounds + 1):
        known._plain(number)
    here = [tiny_study.lab.prompt(number) for number in range(tiny_study.rounds + 1)]
    assert not any(tiny_study.lab.prompt(number) in here for number in asked)
    assert len(set(asked)) == known.rounds + 1


def test_all_logits_are_predicted_to_cost_what_the_head_costs_alone(tiny_study) -> None:
    prefill = dataclasses.replace(tiny_study.prefill)
    found = {LAST: 0.010, HEAD: 0.006, ONE_ROW: 0.001}
    traces = {name: [Trace(0.0, (time,))] * 5 for name, time in found.items()}
    traces[again(LAST)] = traces[LAST]
    vars(prefill)["earlier"] = Comparison(LAST, traces, {})
    assert prefill.expected_speedup == pytest.approx(1.5)
    assert set(tiny_study.prefill.earlier.variants) == {LAST, HEAD, ONE_ROW}


def test_answers_after_both_ways_to_read_a_prompt_are_compared(tiny_study) -> None:
    assert tiny_study.prefill.same.tokens == tiny_study.check_tokens == 8
    trace = tiny_study.prefill._round(False, 1)
    assert len(trace.times) == 1  # only the first token is timed


def test_every_rung_and_both_prefills_are_held_against_their_own_bytes_or_products(
    tiny_study,
) -> None:
    found, prefill = tiny_study.comparison, tiny_study.prefill.comparison
    assert set(found.bare) == {(name, "tpot") for name in tiny_study.rungs}
    assert set(prefill.bare) == {(ALL, "ttft"), (LAST, "ttft")}
    for name in tiny_study.rungs:
        need = tiny_study.lab.need(tiny_study.costs[name])
        assert need.amount == tiny_study.costs[name].read_bytes
        assert found.share(name).value > 0


def test_a_rung_that_fails_is_said_to_be_missing_and_has_no_finding(
    tiny_study, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = dataclasses.replace(tiny_study.comparison, failed={rungs.FOLDED: "No such thing."})
    failed.traces = {n: t for n, t in failed.traces.items() if n != rungs.FOLDED}
    monkeypatch.setitem(vars(tiny_study), "comparison", failed)
    told: list[str] = []
    monkeypatch.setattr(graph_rewriting, "say", told.append)
    tiny_study.measure()
    assert f"**{rungs.FOLDED}** is missing from this page. No such thing." in told
    tiny_study.against_limit()
    tiny_study.why()
    variants = {finding.variant for finding in tiny_study.findings()}
    assert variants == {*rungs.REWRITES, *rungs.STACK, LAST} - {rungs.FOLDED}


@pytest.mark.parametrize("wrong", [{"new_tokens": 1}, {"check_tokens": 0}, {"rounds": 2}])
def test_numbers_that_no_study_can_use_are_refused_before_anything_is_loaded(wrong) -> None:
    with pytest.raises(ParameterError, match="03_graph_rewriting: .*; allowed: whole numbers"):
        graph_rewriting.Study(model="/nowhere", **wrong)


def test_without_a_compiler_the_study_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static.shutil, "which", lambda name: None)
    study = graph_rewriting.Study(str(save_tiny_model(tmp_path)), "cpu", **LENGTHS)
    told: list[str] = []
    monkeypatch.setattr(graph_rewriting, "say", told.append)
    assert set(study.same) == {rungs.PLAIN, *rungs.REWRITES, *rungs.STACK}
    (reason,) = told
    assert "install g++ or clang" in reason
    assert study.built is None
