"""What a variant's passes must read and compute, from what its engine says of itself."""

from __future__ import annotations

from typing import NamedTuple

from labkit.bench import amx
from labkit.bench.client import Loaded
from labkit.bench.variants import Variant
from labkit.limits.cost import Cost, bytes_of_rows, prefill_cost, step_cost, with_weights
from labkit.model.config import ModelConfig

# GGUF formats whose products ggml and ik_llama.cpp do in int8: both round the other side to int8
# too (`vec_dot_type` in ggml/src/ggml-cpu/ggml-cpu.c is Q8_0, Q8_1 or Q8_K).
_INT8_BLOCKS = (
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
)
# Decoding reads far longer than it computes. Where the arithmetic is not known, the fastest is
# taken, so that memory sets the limit.
_FASTEST = "int8"


class Products(NamedTuple):
    """The arithmetic of a variant's matrix products.

    dtype: one of `Hardware.matrix`; None where it is not known. says: where it is written, or why
    it is not known.
    """

    dtype: str | None
    says: str


def products(variant: Variant, file_format: str | None = None) -> Products:
    """The arithmetic of a variant. file_format: of the GGUF file that it is given, as "Q4_1"."""
    options = variant.options
    if variant.driver == "ours":
        if options["kind"] in ("fused", "engine"):
            return Products("int8", "the kernel multiplies int8 by the blocks' integers")
        dtype = options.get("dtype", "float32")
        return Products(dtype, f"torch multiplies in {dtype}")
    if variant.driver == "llama":
        ran = (options["format"] or file_format or "unknown").upper()
        if ran in _INT8_BLOCKS:
            return _int8(f"ggml multiplies {ran} by activations rounded to int8")
        return Products(None, f"with {ran} weights its arithmetic depends on the build")
    if variant.driver == "ort":
        return _int8("accuracy level 4 of MatMulNBits rounds activations to int8")
    return Products(None, "the engine chooses its arithmetic by the machine, and does not tell it")


def _int8(says: str) -> Products:
    """Another engine's int8 products: held against ours only where no faster instruction is."""
    if amx.is_promised():
        return Products(None, f"{says}; it may do so by AMX, and our int8 products do not")
    return Products("int8", says)


def costs_of(
    config: ModelConfig, one: Loaded, dtype: str | None, prompt_tokens: int, new_tokens: int
) -> dict[str, Cost]:
    """The cost of a loaded variant's passes, by the time in a trace that they take.

    "tpot": a decode step in the middle of the answer. "ttft": the prompt. dtype: of the products;
    without it there is no "ttft". Empty where the bytes of the weights are not known.
    """
    if one.weight_bytes is None:
        return {}
    step = step_cost(
        config,
        prompt_tokens + new_tokens // 2,
        dtype=dtype or _FASTEST,
        weight_bytes=one.weight_bytes,
        kv_bytes_per_token=config.kv_bytes_per_token(one.kv_element_bytes),
    )
    if dtype is None:
        return {"tpot": step}
    read = bytes_of_rows(config, one.weight_bytes, prompt_tokens)
    whole = with_weights(prefill_cost(config, prompt_tokens, dtype=dtype), read)
    return {"tpot": step, "ttft": whole}
