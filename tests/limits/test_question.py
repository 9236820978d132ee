"""The calculator's questions: answers worked out by hand, and what cannot be asked."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from labkit.errors import ParameterError
from labkit.limits import datasheet
from labkit.limits.answer_told import batch_told, memory_told, number, price_told
from labkit.limits.calculator import needed_bytes, shapes
from labkit.limits.cost import decode_cost, parameters, prefill_cost
from labkit.limits.question import Question, answer
from labkit.limits.report import answer_report, answer_text
from labkit.limits.roofline import critical_batch, limit

A100 = datasheet.machine("a100-sxm")
LLAMA = shapes()["llama-3.1-8b"]


def test_memory_by_hand() -> None:
    found = answer(LLAMA, A100, Question(batch=4, context=1000, prompt_tokens=9))
    assert found.weights == 2 * parameters(LLAMA)
    a_token = 2 * 32 * 8 * 128 * 2  # keys and values of 32 layers, 8 heads of 128, 2 bytes
    assert found.kv == 4 * 1000 * a_token
    assert found.weights + found.kv == needed_bytes(LLAMA, "bfloat16", 1000, 4)
    assert found.largest_batch == (80e9 - found.weights) // (1000 * a_token)
    assert found.fits


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    most = int(answer(LLAMA, A100, Question()).largest_batch)
    assert answer(LLAMA, A100, Question(batch=most)).fits
    assert not answer(LLAMA, A100, Question(batch=most + 1)).fits
    unknown = replace(A100, capacity=0)
    found = answer(LLAMA, unknown, Question(batch=65_536))
    assert (found.fits, found.largest_batch) == (True, math.inf)
    large = answer(shapes()["llama-3.1-70b"], A100, Question())
    assert (large.fits, large.largest_batch) == (False, 0)


@pytest.mark.parametrize("name", shapes())
def test_the_passes_are_those_of_the_ledger(name: str) -> None:
    config, asked = shapes()[name], Question("int8", "int8", 3, 700, 500)
    found = answer(config, A100, asked)
    assert found.decode.cost == decode_cost(config, 700, 3, "int8")
    assert found.prefill.cost == prefill_cost(config, 500, dtype="int8")
    assert found.decode.limit == limit(found.decode.cost, A100)
    assert found.decode.rate == pytest.approx(3 / found.decode.limit.seconds)
    assert found.prefill.rate == pytest.approx(500 / found.prefill.limit.seconds)


def test_the_kv_cache_may_have_other_bits_than_the_weights() -> None:
    same = answer(LLAMA, A100, Question("int4", "int4")).decode.cost
    more = answer(LLAMA, A100, Question("int4", "bfloat16")).decode.cost
    assert more.weight_bytes == same.weight_bytes
    assert more.kv_read_bytes == 4 * same.kv_read_bytes


def test_at_the_critical_batch_of_a_context_the_bound_turns() -> None:
    batch = critical_batch(LLAMA, A100, "bfloat16", 300)
    assert batch > 1.1 * critical_batch(LLAMA, A100, "bfloat16")
    below, above = math.floor(0.99 * batch), math.ceil(1.01 * batch)
    bounds = [limit(decode_cost(LLAMA, 300, n, "bfloat16"), A100).bound for n in (below, above)]
    assert bounds == ["memory", "compute"]


def test_where_a_sequence_reads_longer_than_it_computes_no_batch_is_compute_bound() -> None:
    config, asked = shapes()["smollm2-1.7b"], Question(batch=64)
    found = answer(config, A100, asked)
    assert found.critical_batch == math.inf
    for batch in (1, 1000, 60_000):
        assert limit(decode_cost(config, 2048, batch, "bfloat16"), A100).bound == "memory"
    told = batch_told(A100, found.decode.cost, found.critical_batch, 2048)
    assert told.startswith("decoding at a context of 2,048 is memory bound at every batch")


def test_a_million_tokens_by_hand() -> None:
    found = answer(LLAMA, A100, Question(batch=8))
    assert found.decode.million(3.6) == pytest.approx(3.6 / 3600 * 1e6 / found.decode.rate)
    told = price_told(found, 3.6)
    assert f"output tokens cost at least {number(found.decode.million(3.6))}, " in told
    assert told.endswith("at 3.6 an hour.")
    nothing = replace(A100, matrix={}, cache=10**12)
    assert price_told(answer(LLAMA, nothing, Question()), 3.6) == ""


def test_memory_is_told() -> None:
    for config, batch, words in (
        (LLAMA, 1, "16.3 GB of 80 GB: it fits, up to a batch of 238 at a context of 2,048."),
        (LLAMA, 239, "80.2 GB of 80 GB: it does not fit; a batch of 238 does at a context of"),
        (shapes()["llama-3.1-70b"], 1, "of 80 GB: it does not fit, at no batch."),
    ):
        asked = Question(batch=batch)
        assert words in memory_told(answer(config, A100, asked), A100, asked)
    unknown = replace(A100, capacity=0)
    told = memory_told(answer(LLAMA, unknown, Question()), unknown, Question())
    assert told.endswith("= 16.3 GB; the size of the machine's memory is not known.")


def test_a_rate_that_stands_for_another_is_named() -> None:
    step = decode_cost(LLAMA, 0, dtype="int4")
    assert "(int4, at the rate of bfloat16 products)" in batch_told(A100, step, 12.3)
    assert "from a batch of 12.3 on" in batch_told(A100, step, 12.34)
    assert "from a batch of 1,234 on" in batch_told(A100, step, 1234.4)
    assert A100.multiplied("int8") == "int8"
    assert datasheet.machine("m4-max").multiplied("int8") is None


def test_the_answer_in_a_terminal() -> None:
    text = answer_text(LLAMA, A100, "llama-3.1-8b", Question(batch=8, price=2.0))
    for words in (
        "NVIDIA A100", "8.03 G parameters", "memory    weights 16.1 GB", "prefill 1024",
        "decode at 2048", "is memory bound at every batch", "a million output tokens",
    ):  # fmt: skip
        assert words in text
    without = answer_text(LLAMA, A100, "llama-3.1-8b", Question(batch=8))
    assert "a million" not in without
    large = answer_report("llama-3.1-70b", "a100-sxm", "auto", Question())
    assert "it does not fit" in large
    assert "tok/s" not in large


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch": 0}, "batch 0: allowed are 1 to 65,536"),
        ({"batch": 10**9}, "batch 1,000,000,000"),
        ({"context": 0}, "context 0"),
        ({"context": 200_000}, "the model has a context of 131,072"),
        ({"prompt_tokens": 0}, "prompt_tokens 0"),
        ({"prompt_tokens": 4000}, "the context of 2,048 tokens holds the prompt"),
        ({"price": 0.0}, "price 0.0"),
        ({"price": math.nan}, "price nan"),
        ({"price": math.inf}, "price inf"),
        ({"dtype": "int3"}, "dtype 'int3' is unknown; allowed: float32"),
        ({"kv_dtype": ""}, "kv_dtype '' is unknown"),
    ],
)
def test_what_cannot_be_asked_is_told_in_one_line(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ParameterError, match=words) as found:
        answer(LLAMA, A100, replace(Question(), **changes))
    assert "\n" not in str(found.value)


def test_an_unknown_shape_and_a_machine_that_is_not_measured(own_cache: object) -> None:
    with pytest.raises(ParameterError, match=r"Did you mean llama-3.1-8b\? Allowed: smollm2"):
        answer_report("llama-3.1-8B", "l4", "auto", Question())
    with pytest.raises(ParameterError, match="`labkit limit` measures it"):
        answer_report("llama-3.1-8b", None, "cpu", Question())
