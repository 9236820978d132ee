"""The rungs, what each must read, and what the study tells of a token's parts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from labkit.limits import datasheet
from labkit.limits.calculator import shapes
from labkit.limits.cost import decode_cost
from labkit.limits.roofline import limit
from labkit.model.rows import Rows
from labkit.optimize.graph_rewriting import static
from labkit.studies import graph_rewriting
from labkit.studies import graph_rewriting_rungs as rungs
from labkit.studies import graph_rewriting_sentences as sentences
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


def test_a_margin_that_is_a_tie_grows_with_the_steps_of_the_dtype() -> None:
    assert rungs.tie_margin(torch.float32) == 1e-3
    assert rungs.tie_margin(torch.bfloat16) == 32 * 2.0**-7


def test_overheads_are_the_operations_of_all_layers_over_the_limit_of_the_bytes() -> None:
    machine = datasheet.machine("h100-sxm")
    (row,) = rungs.overheads({"one": machine}, operations_a_layer=10, price=1e-6)
    assert row.pop("machine") == "one"
    assert list(row) == list(shapes())
    shape = shapes()["llama-3.1-8b"]
    least = limit(decode_cost(shape, 1024, dtype="bfloat16"), machine).seconds
    assert row["llama-3.1-8b"] == pytest.approx(10 * shape.layers * 1e-6 / least)


def test_a_saving_below_zero_is_told_as_more_and_a_rest_below_zero_as_none() -> None:
    assert sentences.change(0.002) == "2 ms less"
    assert sentences.change(-0.002) == "2 ms more"
    assert sentences.rest(0.002) == "2 ms"
    assert sentences.rest(-1e-6) == sentences.rest(0.0) == "no measurable rest"
    assert sentences.saving(-1e-6) == "-1 µs"


def test_products_slower_than_the_token_leave_no_negative_rest() -> None:
    told = sentences.of_plain(token=0.010, products=0.011, least=0.002)
    assert "no measurable rest" in told
    assert "-" not in told
    assert "25%" in sentences.of_plain(token=0.008, products=0.006, least=0.002)


def test_compiling_that_the_rounds_do_not_show_to_pay_has_no_number_of_tokens() -> None:
    parts = ("compiled step", 90, 30, 1900, 0.001, 45.0)
    assert "45,000 tokens" in sentences.of_compiled(*parts, paid_after=45_000)
    assert "tokens" not in sentences.of_compiled(*parts, paid_after=None)


def test_without_a_compiler_the_study_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static.shutil, "which", lambda name: None)
    lengths = {"prompt_tokens": 8, "new_tokens": 2, "check_tokens": 4, "prefill_tokens": 8}
    study = graph_rewriting.Study(str(save_tiny_model(tmp_path)), "cpu", **lengths)
    told: list[str] = []
    monkeypatch.setattr(graph_rewriting, "say", told.append)
    assert set(study.same) == {rungs.PLAIN, *rungs.REWRITES, *rungs.STACK}
    (reason,) = told
    assert "install g++ or clang" in reason
    assert study.built is None
