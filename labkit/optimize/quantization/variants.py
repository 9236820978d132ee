"""The variants that this machine can run: ours over torch's kernels, torchao's, the fused ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from labkit.errors import LabkitError, ParameterError
from labkit.model.decoder import Decoder
from labkit.optimize import fused
from labkit.optimize.quantization.decoder import QuantizedDecoder
from labkit.optimize.quantization.packed import pack
from labkit.optimize.quantization.torchao import quantize_with_torchao

ENGINES = ("torch", "torchao", "fused")
FUSED_FORMATS = (fused.AS_IS, "q8_0", "q4_0")
# name -> what makes a decoder that speaks the forward contract and has weight_bytes
Makers = dict[str, Callable[[], Any]]


def makers(
    engines: Sequence[str],
    decoder: Decoder,
    quantized: Mapping[str, QuantizedDecoder],
    path: Path,
    group: int,
) -> Makers:
    """What each engine would run: packed forms of `quantized` under their own names, and others.

    path: the model's file or directory, for the fused decoder. Raises ParameterError for an
    unknown engine.
    """
    if unknown := sorted(set(engines) - set(ENGINES)):
        allowed = ", ".join(ENGINES)
        raise ParameterError(f"engine {unknown[0]!r} is unknown; allowed: {allowed}.")
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


def attempt(wanted: Makers) -> tuple[dict[str, Any], dict[str, str]]:
    """What could be made, and of what could not, why (a LabkitError's own message)."""
    made, missing = {}, {}
    for name, make in wanted.items():
        try:
            made[name] = make()
        except LabkitError as error:
            missing[name] = str(error)
    return made, missing


def kv_bytes(forward: Any, capacity: int = 64) -> float:
    """Bytes a token takes in the cache that a decoder makes."""
    return forward.new_cache(1, capacity).nbytes / capacity
