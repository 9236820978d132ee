"""The fused decoder: all layers in one native call a pass, at the speed that memory allows.

`load_fused` takes an unmodified model and gives a decoder that speaks the forward contract.
`available` says what is missing where it cannot run.
"""

from __future__ import annotations

from pathlib import Path

from labkit.optimize.fused import native
from labkit.optimize.fused.cache import FusedCache
from labkit.optimize.fused.decoder import SKIP, FusedDecoder
from labkit.optimize.fused.pack import FORMATS, FusedError
from labkit.optimize.fused.weights import AS_IS, packed

__all__ = [
    "AS_IS",
    "FORMATS",
    "SKIP",
    "FusedCache",
    "FusedDecoder",
    "FusedError",
    "available",
    "kernel_text",
    "load_fused",
]


def available() -> str | None:
    """None where the kernel runs; else what is missing and what to do. Compiles on first use."""
    try:
        native.library()
    except FusedError as error:
        return str(error)
    return None


def kernel_text(name: str) -> str:
    """The source of a file of the kernel."""
    return (native.SOURCE / name).read_text(encoding="utf-8")


def load_fused(
    model: str | Path | None = None,
    weights: str = AS_IS,
    threads: int | None = None,
    isa: str = "",
    screened: bool = True,
) -> FusedDecoder:
    """Load a model as a fused decoder.

    model: as labkit.model.load.load takes it (a GGUF file, a directory, a hub id; none for the
    default). weights: "as-is" for the blocks of a GGUF file, or one of pack.ROUNDED to round every
    matrix to. threads: by default one for each core that this process gets. isa, screened: as
    FusedDecoder takes them. Raises FusedError, a ModelError, for a model, format or machine that
    the kernel does not support.
    """
    native.check_isa(isa)
    native.library(isa)
    return FusedDecoder(packed(model, weights, threads), isa, screened=screened)
