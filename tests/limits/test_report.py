"""`labkit limit` and the calculator: figures against ones worked out by hand."""

import pytest

from labkit.errors import ModelError, ParameterError
from labkit.limits import calculator, datasheet
from labkit.limits.cost import decode_cost, parameters
from labkit.limits.hardware import Hardware, Reading
from labkit.limits.report import limit_report, limit_text
from labkit.limits.roofline import limit

MACHINE = datasheet.machine("a100-sxm")


def test_every_machine_of_the_table_has_a_source_and_positive_figures():
    for name, hardware in datasheet.machines().items():
        assert len(hardware.source) > 20, name
        assert hardware.capacity > 0
        assert hardware.bandwidth(1e3) >= hardware.bandwidth(1e12) > 0
        assert all(reading.best > 0 for reading in hardware.matrix.values())


def test_every_cache_of_the_table_names_who_says_so():
    table = datasheet._table()
    assert {name for name, row in table.items() if "cache" in row} >= {"epyc-9654", "mi300x"}
    for name, row in table.items():
        assert ("cache" in row) == ("cache_source" in row), name
        rates = (row.get("cache_bandwidth", row["bandwidth"]), row["bandwidth"])
        assert float(rates[0]) >= float(rates[1]), name


def test_an_unknown_machine_names_the_nearest_and_all_others():
    with pytest.raises(ParameterError, match="Did you mean h100-sxm.*rtx-4090"):
        datasheet.machine("h100-smx")


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("smollm2-135m", 0.1345),
        ("smollm2-1.7b", 1.711),
        ("qwen3-0.6b", 0.596),
        ("llama-3.2-1b", 1.236),
        ("llama-3.1-8b", 8.03),
        ("qwen3-30b-a3b", 30.53),
        ("qwen3-32b", 32.76),
        ("llama-3.1-70b", 70.55),
        ("gemma-3-1b", 0.99989),
    ],
)
def test_shapes_have_the_parameters_their_makers_state(name, billions):
    assert parameters(calculator.shapes()[name]) / 1e9 == pytest.approx(billions, rel=0.003)


def test_what_if_by_hand():
    shape = calculator.shapes()["llama-3.1-8b"]
    found = calculator.what_if(MACHINE, shape, "bfloat16", context=0)
    table = shape.vocab_size * shape.hidden_size  # the embedding is looked up, not read
    by_hand = 2.039e12 / (2 * (parameters(shape) - table + shape.hidden_size))
    assert found["decode"] == f"{by_hand:,.0f} tok/s (memory)"


def test_a_model_in_a_cache_of_unknown_bandwidth_is_not_bound_by_memory():
    """269 MB of weights in the 384 MB of an EPYC 9654: 461 GB/s of memory is no limit."""
    machine, shape = datasheet.machine("epyc-9654"), calculator.shapes()["smollm2-135m"]
    step = decode_cost(shape, 128, dtype="bfloat16")
    found = calculator.what_if(machine, shape, "bfloat16", context=128)
    assert found["decode"] == f"{14.75e12 / step.flops:,.0f} tok/s (compute)"
    assert "272 MB) fit the 384 MB last-level cache" in str(found["note"])
    text = limit_text(shape, machine, "smollm2-135m", "bfloat16", 128, 4)
    assert "no limit from memory" in text
    assert "fits the cache" in text
    large = calculator.what_if(machine, shape, "float32", context=128)
    assert large["note"] == ""
    assert "(memory)" in str(large["decode"])
    (row,) = calculator.calculator({"epyc-9654": machine}, ["smollm2-135m"], context=128)
    assert str(row["smollm2-135m"]).endswith(" *")


def test_a_printed_bandwidth_of_a_cache_bounds_what_fits_it():
    machine, shape = datasheet.machine("mi300x"), calculator.shapes()["smollm2-135m"]
    small, large = (decode_cost(shape, 0, dtype=dtype) for dtype in ("int8", "bfloat16"))
    assert limit(small, machine).memory_seconds == pytest.approx(small.read_bytes / 17.2e12)
    assert limit(large, machine).memory_seconds == pytest.approx(large.read_bytes / 5.3e12)
    assert calculator.cache_note(small, machine) == ""


def test_a_model_that_does_not_fit_says_so():
    shape = calculator.shapes()["llama-3.1-70b"]
    assert calculator.what_if(MACHINE, shape, "bfloat16")["decode"] == "does not fit"
    assert "tok/s" in str(calculator.what_if(MACHINE, shape, "int4")["decode"])


def test_the_table_has_a_row_a_machine_and_a_column_a_model():
    rows = calculator.calculator(datasheet.machines(), ["smollm2-135m", "qwen3-32b"])
    assert [row["machine"] for row in rows] == list(datasheet.machines())
    assert set(rows[0]) == {"machine", "smollm2-135m", "qwen3-32b"}


def test_a_machine_without_a_matrix_rate_is_bound_by_memory():
    shape = calculator.shapes()["smollm2-135m"]
    found = calculator.what_if(datasheet.machine("m4-max"), shape)
    assert "memory" in str(found["prefill"])


def test_limit_text_names_bound_source_and_batch():
    shape = calculator.shapes()["llama-3.1-8b"]
    text = limit_text(shape, MACHINE, "llama-3.1-8b", "bfloat16", 128, 128)
    assert "NVIDIA A100" in text
    assert "prefill 128" in text
    assert "decode at 255" in text
    assert "8.03 G parameters" in text
    assert "batch of" in text


def measured() -> Hardware:
    points = {2**20: Reading(90e9, 90e9, 0.0, 80e9), 2**30: Reading(45e9, 40e9, 0.1, 27e9)}
    rates = {"float32": Reading(2e11, 2e11, 0.0, 1e11), "int8": Reading(9e11, 8e11, 0.0, 7e11)}
    return Hardware("here", "cpu", 2, points, rates, measured_at="today")


def test_a_measured_machine_tells_its_best_and_slowest_rates_of_every_dtype():
    shape = calculator.shapes()["llama-3.1-8b"]
    text = limit_text(shape, measured(), "llama-3.1-8b", "float32", 128, 4)
    assert "1.07 GB: 45 GB/s at best, 27 GB/s at its slowest" in text
    assert "float32: 200 GFLOP/s at best, 100 GFLOP/s at its slowest" in text
    assert "int8: 900 GFLOP/s at best, 700 GFLOP/s at its slowest" in text
    assert "compute bound, not memory bound, from a batch of" in text


def test_a_machine_without_a_matrix_rate_names_no_batch():
    shape = calculator.shapes()["llama-3.1-8b"]
    text = limit_text(shape, datasheet.machine("m4-max"), "llama-3.1-8b", "bfloat16", 128, 4)
    assert "no rate of products in bfloat16 is known" in text
    assert "compute bound" not in text


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"dtype": "int3"}, ParameterError, "int3.*float32"),
        ({"prompt_tokens": 0}, ParameterError, "at least 1"),
        ({"prompt_tokens": 9000}, ModelError, "context"),
        ({"machine": "abacus"}, ParameterError, "abacus"),
        ({"model": "no-such-model"}, ModelError, "no-such-model"),
    ],
)
def test_bad_requests_say_what_is_allowed(changes, error, words):
    asked = {
        "model": None,
        "device": "cpu",
        "dtype": "float32",
        "prompt_tokens": 128,
        "new_tokens": 64,
        "machine": "a100-sxm",
    }
    with pytest.raises(error, match=words):
        limit_report(**asked | changes)


def test_a_gguf_file_is_not_converted_to_know_its_limit(own_cache):
    text = limit_report(None, "cpu", "bfloat16", 128, 64, machine="l4")
    assert "smollm2-135m-instruct" in text
    assert not list(own_cache.rglob("*.safetensors"))
