"""A whole decoder quantized: the layers' matrices by a method, the head row by row."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from labkit.errors import ParameterError
from labkit.limits.cost import router_parameters, vector_parameters
from labkit.model.cache.static import StaticCache
from labkit.model.cache.table import Cache
from labkit.model.config import ModelConfig
from labkit.model.decoder import Decoder
from labkit.model.rows import Rows
from labkit.optimize.graph_rewriting import shared_copy
from labkit.optimize.quantization.calibration import Stream, hessians, linears
from labkit.optimize.quantization.gptq import gptq
from labkit.optimize.quantization.grid import Quantized, round_to_nearest
from labkit.optimize.quantization.hqq import hqq

DATA_FREE: dict[str, Callable[[Tensor, int, int | None], Quantized]] = {
    "rtn": round_to_nearest,
    "hqq": hqq,
    "symmetric": lambda weight, bits, group: round_to_nearest(weight, bits, group, symmetric=True),
}
CALIBRATED = ("gptq",)
METHODS = (*DATA_FREE, *CALIBRATED)


@dataclass(frozen=True)
class QuantizedDecoder:
    """A decoder with dequantized weights, and the integers that these come from.

    It gives the answers of the quantized model and fits the forward contract. It is not faster than
    the original: only kernels that read packed integers are (`pack`). layers: for each layer, the
    quantized matrices by name. head: None where the head was not quantized.
    """

    decoder: Decoder
    method: str
    bits: int
    group: int | None
    layers: tuple[dict[str, Quantized], ...]
    head: Quantized | None

    @property
    def config(self) -> ModelConfig:
        return self.decoder.config

    def new_cache(self, slots: int, capacity: int) -> StaticCache:
        """A static cache for this model."""
        return self.decoder.new_cache(slots, capacity)

    def __call__(self, rows: Rows, cache: Cache) -> Tensor:
        """Logits of the wanted rows, (wanted, vocab) float32."""
        logits: Tensor = self.decoder(rows, cache)
        return logits

    @property
    def weight_bytes(self) -> float:
        """Bytes that a pass of one row would read: packed matrices, 16-bit scales, vectors, and
        routers, which stay as they are."""
        matrices = sum(map(self._read_bytes, self.layers))
        weight = self.decoder.lm_head.weight
        head = float(weight.nbytes) if self.head is None else self.head.nbytes
        others = vector_parameters(self.config) + router_parameters(self.config)
        return matrices + head + others * self.decoder.dtype.itemsize

    def _read_bytes(self, layer: dict[str, Quantized]) -> float:
        """Bytes of a layer's matrices that one row reads: of experts, those that it uses."""
        read = {name: found.nbytes for name, found in layer.items()}
        experts = self.config.experts
        return sum(read.values()) - (experts.idle(read) if experts else 0)


def with_weight(linear: nn.Linear, weight: Tensor) -> nn.Linear:
    """A copy of a linear layer with another matrix."""
    made = copy.copy(linear)
    made._parameters = dict(linear._parameters)
    made.weight = nn.Parameter(weight.to(linear.weight.dtype), requires_grad=False)
    return made


def replace(owner: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in place of the one with this dotted name."""
    above, _, last = name.rpartition(".")
    setattr(owner.get_submodule(above), last, module)


@torch.inference_mode()
def quantize(
    decoder: Decoder,
    method: str = "gptq",
    bits: int = 4,
    group: int | None = 64,
    calibration: Iterable[Sequence[int]] = (),
    head_bits: int | None = 8,
) -> QuantizedDecoder:
    """Quantize every matrix of the layers by `method`; the head is rounded to nearest by rows.

    method: rtn (round to nearest), symmetric (the same around zero), hqq, or gptq. gptq needs
    `calibration`, token ids of real texts; it solves layer by layer, each on the outputs of the
    quantized layers before it. group: inputs that share a scale, None for all of a row. head_bits:
    None leaves the head as it is. Routers of mixtures of experts are never quantized. Raises
    ParameterError for an unknown method, width or group, and for gptq without calibration or of
    mixtures of experts.
    """
    texts = [list(ids) for ids in calibration]
    if method not in METHODS:
        raise ParameterError(f"method {method!r} is unknown; allowed: {', '.join(METHODS)}.")
    if method in CALIBRATED and decoder.config.experts:
        raise ParameterError(
            f"{method} is not made for mixtures of experts: an expert that no text is routed to "
            f"has no inputs to be fitted on. Choose {', '.join(DATA_FREE)}."
        )
    if method in CALIBRATED and not texts:
        raise ParameterError(f"{method} needs calibration texts (token ids); none were given.")
    made = shared_copy(decoder)
    if method in CALIBRATED:
        solved = _calibrated(made, texts, bits, group)
    else:
        solved = (_each(layer, DATA_FREE[method], bits, group) for layer in made.layers)
    bar = tqdm(solved, f"{method}, {bits} bits", len(made.layers), unit="layer", leave=False)
    layers = tuple(bar)
    head = None if head_bits is None else _quantize_head(made, head_bits)
    return QuantizedDecoder(made, method, bits, group, layers, head)


def _put(layer: nn.Module, found: dict[str, Quantized]) -> dict[str, Quantized]:
    for name, matrix in found.items():
        replace(layer, name, with_weight(linears(layer)[name], matrix.dequantize()))
    return found


def _each(
    layer: nn.Module,
    method: Callable[[Tensor, int, int | None], Quantized],
    bits: int,
    group: int | None,
) -> dict[str, Quantized]:
    found = {name: method(m.weight, bits, group) for name, m in linears(layer).items()}
    return _put(layer, found)


def _calibrated(
    made: Decoder, texts: list[list[int]], bits: int, group: int | None
) -> Iterator[dict[str, Quantized]]:
    """Layer after layer, each on the outputs of the quantized layers before it."""
    streams = [Stream(made, ids) for ids in texts]
    for layer in made.layers:
        found: dict[str, Quantized] = {}
        for names, hessian in hessians(layer, streams).items():
            found |= _solve(layer, names, hessian, bits, group)
        yield _put(layer, found)
        for stream in streams:
            stream.x = stream.through(layer)


def _solve(
    layer: nn.Module, names: tuple[str, ...], hessian: Tensor, bits: int, group: int | None
) -> dict[str, Quantized]:
    """Solve all matrices with the same input as one matrix."""
    weights = [linears(layer)[name].weight for name in names]
    found = gptq(torch.cat(weights), hessian, bits, group)
    sizes = [len(weight) for weight in weights]
    parts = zip(
        found.integers.split(sizes), found.scale.split(sizes), found.zero.split(sizes), strict=True
    )
    return {
        name: Quantized(integers, scale, zero, bits)
        for name, (integers, scale, zero) in zip(names, parts, strict=True)
    }


def _quantize_head(decoder: Decoder, bits: int) -> Quantized:
    """Quantize the head, and the embedding too where both are one matrix."""
    found = round_to_nearest(decoder.lm_head.weight, bits, None, symmetric=True)
    tied = decoder.embed_tokens.weight is decoder.lm_head.weight
    decoder.lm_head = with_weight(decoder.lm_head, found.dequantize())
    if tied:
        table = copy.copy(decoder.embed_tokens)
        table._parameters = dict(decoder.lm_head._parameters)
        decoder.embed_tokens = table
    return found
