"""What a variant must read and compute, and the arithmetic that it is held against."""

import pytest

from labkit.bench import amx
from labkit.bench.client import Loaded
from labkit.bench.costs import costs_of, products
from labkit.bench.variants import VARIANTS
from labkit.limits.cost import prefill_cost
from tests.tiny import CONFIG


def loaded(weight_bytes):
    return Loaded(0.0, 0.0, 0.0, weight_bytes, 2.0, "1", "", "", "Q4_1 as in the file", True)


@pytest.mark.parametrize(
    ("name", "file_format", "dtype"),
    [
        ("transformers", "Q4_1", "float32"),
        ("transformers:bf16", "Q4_1", "bfloat16"),
        ("plain", None, "float32"),
        ("fused", "Q4_1", "int8"),
        ("fused:q8_0", None, "int8"),
        ("llama.cpp", "Q4_1", "int8"),
        ("llama.cpp", "F16", None),
        ("llama.cpp:q4_0", "F16", "int8"),
        ("llama.cpp:f16", "Q4_1", None),
        ("ik_llama.cpp", "Q4_K", "int8"),
        ("onnxruntime-genai:int4", "Q4_1", "int8"),
        ("openvino-genai:int4", "Q4_1", None),
    ],
)
def test_the_arithmetic_of_a_variant_is_known_or_the_reason_is_told(
    name, file_format, dtype, monkeypatch
):
    monkeypatch.setattr(amx, "is_promised", lambda: False)
    found = products(VARIANTS[name], file_format)
    assert found.dtype == dtype
    assert found.says


@pytest.mark.parametrize(
    ("name", "dtype"), [("fused", "int8"), ("llama.cpp", None), ("onnxruntime-genai:int4", None)]
)
def test_where_others_may_use_amx_only_our_kernel_is_held_against_our_products(
    name, dtype, monkeypatch
):
    monkeypatch.setattr(amx, "is_promised", lambda: True)
    assert products(VARIANTS[name], "Q4_1").dtype == dtype


def test_every_variant_says_something_of_its_arithmetic():
    assert all(products(variant, "Q4_1").says for variant in VARIANTS.values())


def test_a_step_reads_the_weights_and_the_cache_in_the_middle_of_the_answer():
    cost = costs_of(CONFIG, loaded(5000), "int8", 20, 8)["tpot"]
    assert cost.read_bytes == 5000 + 24 * CONFIG.kv_bytes_per_token(2.0)
    assert cost.dtype == "int8"


def test_a_prompt_reads_the_weights_once_and_multiplies_in_the_dtype_of_the_products():
    cost = costs_of(CONFIG, loaded(5000), "int8", 20, 8)["ttft"]
    assert cost.read_bytes == 5000
    assert cost.flops == prefill_cost(CONFIG, 20).flops
    assert cost.dtype == "int8"


def test_where_the_arithmetic_is_not_known_a_prompt_has_no_cost():
    assert list(costs_of(CONFIG, loaded(5000), None, 20, 8)) == ["tpot"]


def test_where_the_bytes_are_not_known_nothing_has_a_cost():
    assert costs_of(CONFIG, loaded(None), "float32", 20, 8) == {}
