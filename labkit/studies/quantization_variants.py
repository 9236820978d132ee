"""The variants of notebook 04 that this machine runs, and the cost of a token with each.

Three engines run quantized weights: torch's own kernels, torchao, and the fused decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from labkit.errors import LabkitError, ParameterError
from labkit.limits.calculator import shapes
from labkit.limits.cost import Cost, decode_cost, step_cost
from labkit.model.config import ModelConfig
from labkit.model.decoder import Decoder
from labkit.model.forward import Forward, Weighed, offers
from labkit.optimize import fused
from labkit.optimize.quantization.decoder import QuantizedDecoder
from labkit.optimize.quantization.packed import pack
from labkit.optimize.quantization.torchao import quantize_with_torchao

PLAIN, EIGHT, CACHE = "plain decoder", "8 bits, a scale a row", "8-bit KV cache"
ENGINES = ("torch", "torchao", "fused")
FUSED_FORMATS = (fused.AS_IS, "q8_0", "q4_0")
T = TypeVar("T")
Makers = dict[str, Callable[[], Forward]]  # by the name of the variant


def check_engines(engines: Sequence[str]) -> None:
    """Raise ParameterError for an engine that is not one of ENGINES."""
    if unknown := sorted(set(engines) - set(ENGINES)):
        allowed = ", ".join(ENGINES)
        raise ParameterError(f"engine {unknown[0]!r} is unknown; allowed: {allowed}.")


def makers(
    engines: Sequence[str],
    decoder: Decoder,
    quantized: Mapping[str, QuantizedDecoder],
    path: Path,
    group: int,
) -> Makers:
    """A maker of each variant that the engines run; packed forms of `quantized` keep their names.

    path: the model's file or directory, for the fused decoder. group: inputs that share a scale,
    for torchao. Raises ParameterError for an unknown engine.
    """
    check_engines(engines)
    every: dict[str, Makers] = {
        "torch": {name: partial(pack, made) for name, made in quantized.items()},
        "torchao": {
            f"torchao int{bits}": partial(quantize_with_torchao, decoder, bits, group)
            for bits in (8, 4)
        },
        "fused": {
            f"fused, {form}": partial(fused.load_fused, path, weights=form)
            for form in FUSED_FORMATS
        },
    }
    return {name: make for engine in engines for name, make in every[engine].items()}


def attempt(wanted: Mapping[str, Callable[[], T]]) -> tuple[dict[str, T], dict[str, str]]:
    """Make every variant that can be made; for the others, the message of the LabkitError."""
    made, missing = {}, {}
    for name, make in wanted.items():
        try:
            made[name] = make()
        except LabkitError as error:
            missing[name] = str(error)
    return made, missing


def weight_bytes(forward: Forward, plain: float) -> float:
    """Bytes of weights that a pass of one row reads; `plain` where the decoder does not say."""
    weighed = offers(forward, Weighed)
    return plain if weighed is None else weighed.weight_bytes


def kv_bytes(forward: Forward, capacity: int = 64) -> float:
    """Bytes that a token takes in the cache that a decoder makes."""
    return forward.new_cache(1, capacity).nbytes / capacity


def cost_of(
    config: ModelConfig, weights: float, kv: float, context: int, dtype: str = "float32"
) -> Cost:
    """The cost of one token after `context`, computed in `dtype`.

    weights: their bytes. kv: bytes a token in the cache.
    """
    return step_cost(config, context, dtype=dtype, weight_bytes=weights, kv_bytes_per_token=kv)


def share_of_cache(
    config: ModelConfig, context: int, weight_bits: float, kv_element_bytes: float
) -> float:
    """The KV cache's share of the bytes that one token after `context` reads.

    weight_bits: of one weight, with its share of the scales.
    """
    weights = decode_cost(config, 0, dtype="bfloat16").weight_bytes * weight_bits / 16
    cache = context * config.kv_bytes_per_token(kv_element_bytes)
    return cache / (weights + cache)


def cache_shares(context: int) -> list[dict[str, object]]:
    """The cache's share for well-known models, by bits of weights and of cache; a row a model.

    Scales add half a bit to a weight.
    """
    rows: list[dict[str, object]] = [{"model": name} for name in shapes()]
    for row, shape in zip(rows, shapes().values(), strict=True):
        # Bits a weight, bytes an element of the cache.
        for bits, size in ((16, 2), (8, 2), (4, 2), (4, 1)):
            share = share_of_cache(shape, context, bits + 0.5, size)
            row[f"{bits} bits, KV in {8 * size}"] = f"{share:.0%}"
    return rows
