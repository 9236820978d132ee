"""The variants of notebook 04 that this machine runs, and what a pass of each must do.

Three engines run quantized weights: torch's own kernels, torchao, and the fused decoder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from labkit.base.device import Device, kind
from labkit.errors import LabkitError, ParameterError
from labkit.limits.calculator import shapes
from labkit.limits.cost import (
    Cost,
    bytes_of_rows,
    decode_cost,
    positions_read,
    prefill_cost,
    step_cost,
    with_weights,
)
from labkit.model.config import ModelConfig
from labkit.model.forward import Forward
from labkit.model.gguf_header import GgufFile
from labkit.model.load import LoadedModel
from labkit.model.weights import read_bytes
from labkit.optimize import fused
from labkit.optimize.quantization.cache import WithQuantizedCache
from labkit.optimize.quantization.decoder import QuantizedDecoder
from labkit.optimize.quantization.packed import pack
from labkit.optimize.quantization.torchao import quantize_with_torchao

PLAIN, EIGHT, CACHE = "plain decoder", "8 bits, a scale a row", "8-bit KV cache"
ENGINES = ("torch", "torchao", "fused")
FUSED_FORMATS = (fused.AS_IS, "q8_0", "q4_0")


class WrongDeviceError(LabkitError):
    """A variant that does not run on the device of this run."""


class Plan(NamedTuple):
    """How a variant is made, and what its kernels do.

    arithmetic: the dtype whose rate bounds its products. words: the format of its weights, from
    the decoder that was made. products_only: it replaces the plain decoder's products and no other
    operation.
    """

    make: Callable[[], Forward]
    arithmetic: str
    words: Callable[[Any], str]
    products_only: bool = False


def check_engines(engines: Sequence[str]) -> None:
    """Raise ParameterError for an engine that is not one of ENGINES."""
    if unknown := sorted(set(engines) - set(ENGINES)):
        allowed = ", ".join(ENGINES)
        raise ParameterError(f"engine {unknown[0]!r} is unknown; allowed: {allowed}.")


def plans(
    engines: Sequence[str], loaded: LoadedModel, quantized: Mapping[str, QuantizedDecoder],
    group: int,
) -> dict[str, Plan]:  # fmt: skip
    """A plan of each variant that the engines run, and of the 8-bit KV cache.

    Packed forms of `quantized` keep their names. group: inputs that share a scale, for torchao.
    Raises ParameterError for an unknown engine.
    """
    check_engines(engines)
    decoder, path = loaded.decoder, loaded.source or loaded.directory
    dtype = str(decoder.dtype).removeprefix("torch.")
    every: dict[str, dict[str, Plan]] = {
        # Both kernels convert integers and inputs to float32 and multiply these. The 8-bit one
        # gets its scales from operations of its own (Int8Linear).
        "torch": {
            name: Plan(partial(pack, made), "float32", _integers(made), made.group is not None)
            for name, made in quantized.items()
        },
        "torchao": {  # int8 is dequantized to bfloat16; int4 runs torch's own kernel
            f"torchao int{bits}": Plan(
                partial(quantize_with_torchao, decoder, bits, group), arithmetic, _torchao(bits)
            )
            for bits, arithmetic in ((8, "bfloat16"), (4, "float32"))
        },
        "fused": {
            f"fused, {form}": Plan(partial(_fused, path, form, decoder.device), "int8", _blocks)
            for form in FUSED_FORMATS
        },
    }
    found = {name: plan for engine in engines for name, plan in every[engine].items()}
    words = f"{dtype}; KV cache in int8, a scale a key and a value"
    return found | {CACHE: Plan(partial(WithQuantizedCache, decoder), dtype, lambda _: words)}


def _fused(path: Path, form: str, device: Device) -> Forward:
    if kind(device) != "cpu":
        raise WrongDeviceError(f"the fused decoder runs on the CPU, and this run is on {device}.")
    return fused.load_fused(path, weights=form)


def _integers(made: QuantizedDecoder) -> Callable[[Any], str]:
    head = "" if made.head is None else f", head int{made.head.bits} with a scale a row"
    scales = "one scale a row" if made.group is None else f"groups of {made.group}"
    whole = "" if made.group is None else head  # the head then has the format of all the rest
    return lambda _: f"int{made.bits}, {scales}{whole} (float32 sums)"


def _torchao(bits: int) -> Callable[[Any], str]:
    head = ", head int8" if bits < 8 else ""
    return lambda _: f"torchao's int{bits}{head}, the rest bfloat16"


def _blocks(made: fused.FusedDecoder) -> str:
    return " and ".join(form.upper() for form in made.formats) + " blocks (int32 sums)"


def attempt(wanted: Mapping[str, Plan]) -> tuple[dict[str, Forward], dict[str, str]]:
    """Make every variant that can be made; for the others, the message of the LabkitError."""
    made, missing = {}, {}
    for name, plan in wanted.items():
        try:
            made[name] = plan.make()
        except LabkitError as error:
            missing[name] = str(error)
    return made, missing


def stored_formats(source: Path | None) -> dict[str, float]:
    """The formats of a GGUF file's matrices, by their share of the weights, the largest first.

    Empty for a model that comes from no GGUF file.
    """
    if source is None:
        return {}
    counts: Counter[str] = Counter()
    for tensor in GgufFile(source).tensors.values():
        if len(tensor.shape) > 1:
            counts[tensor.kind] += tensor.size
    return {name: count / counts.total() for name, count in counts.most_common()}


def kv_bytes(forward: Forward, capacity: int = 64) -> float:
    """Bytes that a token takes in the cache that a decoder makes."""
    return forward.new_cache(1, capacity).nbytes / capacity


def costs_of(
    config: ModelConfig, made: Forward, arithmetic: str, prompt: int, context: int
) -> dict[str, Cost]:
    """The cost of a variant's pass by phase: one token after `context`, and a prompt of `prompt`.

    The bytes are those of its own weights and cache; arithmetic: the dtype of its products.
    """
    weights = read_bytes(made)
    return {
        "decode": step_cost(
            config, context,
            dtype=arithmetic, weight_bytes=weights, kv_bytes_per_token=kv_bytes(made),
        ),
        "prefill": with_weights(
            prefill_cost(config, prompt, dtype=arithmetic), bytes_of_rows(config, weights, prompt)
        ),
    }  # fmt: skip


def share_of_cache(
    config: ModelConfig, context: int, weight_bits: float, kv_element_bytes: float
) -> float:
    """The KV cache's share of the bytes that one token after `context` reads.

    weight_bits: of one weight, with its share of the scales.
    """
    weights = decode_cost(config, 0, dtype="bfloat16").weight_bytes * weight_bits / 16
    cache = positions_read(config, context) * config.kv_bytes_per_token(kv_element_bytes)
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
