"""Which decoder answers: the fused one where this machine and this model can run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from labkit.base.device import Device, cores_allowed, device_name, kind, resolve_device
from labkit.base.native import compiler
from labkit.base.units import shown
from labkit.errors import ParameterError
from labkit.limits.measure import check_threads
from labkit.model.forward import Forward
from labkit.model.load import DTYPES, load, locate_described, tokenizer_of
from labkit.optimize.fused import AS_IS, FusedDecoder, FusedError, load_fused, native
from labkit.optimize.fused.pack import ROUNDED

Tell = Callable[[str], object]  # takes a line for the user
_ROUNDED_TO = "q8_0"  # weights that are no blocks yet


@dataclass(frozen=True)
class Chosen:
    """A decoder for one stream.

    name: the decoder with its weights, in words. model: its short name. threads: of the CPU.
    products: the dtype of its matrix products where that is not `dtype`, the one of its weights.
    """

    name: str
    model: str
    decoder: Forward
    tokenizer: Any
    device: torch.device
    threads: int
    dtype: str = "float32"
    products: str = ""

    @property
    def torch_threads(self) -> int | None:
        """The threads that torch takes for a pass; None where it makes none of its own."""
        fused = isinstance(self.decoder, FusedDecoder)
        return None if fused or self.device.type != "cpu" else self.threads


def choose(
    model: str | Path | None, device: Device, threads: int | None, weights: str, tell: Tell
) -> Chosen:
    """The fastest decoder for a model. What falls back is told in one line.

    model, device: as labkit.model.load.load takes them. weights: blocks for the fused decoder
    ("as-is", or formats to round to), or a dtype for the plain one; "" takes the blocks of a GGUF
    file as they are, and rounds others to Q8_0. Raises ParameterError, DeviceError or ModelError;
    where blocks are asked for by name, also FusedError: nothing else has them.
    """
    check_threads(threads)
    allowed = (AS_IS, *ROUNDED, *DTYPES)
    if weights and weights not in allowed:
        raise ParameterError(f"weights {shown(weights)}: allowed are {', '.join(allowed)}.")
    where, count = resolve_device(device), threads or cores_allowed()
    if weights in DTYPES:
        return _plain(model, where, count, weights)
    if kind(where) != "cpu":
        tell(f"The plain decoder answers on {device_name(where)}: the fused one needs a CPU.")
        return _plain(model, where, count, "float32")
    try:
        return _fused(model, count, weights, tell)
    except FusedError as error:
        if weights:
            raise
        reason = str(error.args[0]).splitlines()[0].rstrip(".:")
        tell(f"The plain decoder answers, which is slower: {reason}.")
        return _plain(model, where, count, "float32")


def _fused(model: str | Path | None, threads: int, weights: str, tell: Tell) -> Chosen:
    if compiler() and not native.is_built():
        tell("Compiling the fused decoder once, which takes some ten seconds ...")
    short, directory, file = locate_described(model)
    form = weights or (AS_IS if file else _ROUNDED_TO)
    decoder = load_fused(model, form, threads)
    if not weights and form != AS_IS:
        tell(
            f"The weights of {short} are rounded to {form.upper()}, which may change answers a "
            'little; weights="float32" keeps them.'
        )
    device, formats = torch.device("cpu"), " and ".join(decoder.formats)
    return Chosen(
        f"fused decoder ({formats})", short, decoder, tokenizer_of(directory), device, threads,
        products="int8",
    )  # fmt: skip


def _plain(model: str | Path | None, device: torch.device, threads: int, dtype: str) -> Chosen:
    loaded = load(model, device, dtype)
    return Chosen(
        f"plain decoder ({dtype})", loaded.name, loaded.decoder, loaded.tokenizer, device, threads,
        dtype,
    )  # fmt: skip
