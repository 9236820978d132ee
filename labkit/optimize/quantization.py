"""Weight-only quantization: fewer bytes to read for a token, at a price in answers.

Weights are quantized in groups along the inputs of a matrix, each group with its own scale and
zero point. Three ways to choose the integers: round to nearest; HQQ (Badri and Shaji 2023), which
moves the zero points so that the error's outliers count less and needs no data; and GPTQ (Frantar
et al., 2210.17323), which lets later weights make up for the rounding of earlier ones, weighted by
how inputs of real text are correlated.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from labkit.errors import ParameterError
from labkit.model.decoder import Decoder
from labkit.model.rows import Rows
from labkit.optimize.graph_rewriting import shared_copy


@dataclass(frozen=True)
class Quantized:
    """A matrix in groups: integers (out, groups, group) uint8, scale and zero (out, groups, 1).

    A weight is (integer - zero) * scale.
    """

    integers: Tensor
    scale: Tensor
    zero: Tensor
    bits: int

    def dequantize(self) -> Tensor:
        """The matrix it stands for, (out, in) float32."""
        return ((self.integers - self.zero) * self.scale).flatten(1)

    @property
    def nbytes(self) -> float:
        """Bytes with the integers packed and a 16-bit scale and zero point a group."""
        return self.integers.numel() * self.bits / 8 + self.scale.numel() * 4


def check(weight: Tensor, bits: int, group: int) -> None:
    """ParameterError for a width or a group that cannot be."""
    if bits not in (2, 3, 4, 5, 6, 8):
        raise ParameterError(f"{bits} bits are not supported; allowed: 2, 3, 4, 5, 6, 8.")
    if group < 1 or weight.shape[1] % group:
        raise ParameterError(
            f"groups of {group} do not divide the {weight.shape[1]} inputs of a matrix."
        )


def _scale_and_zero(groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Of the range of each group, (..., group) -> (..., 1) each."""
    low = groups.amin(-1, keepdim=True).clamp_max(0)
    high = groups.amax(-1, keepdim=True).clamp_min(0)
    scale = ((high - low) / (2**bits - 1)).clamp_min(1e-8)
    return scale, -low / scale


def _round(groups: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    return torch.round(groups / scale + zero).clamp(0, 2**bits - 1)


def round_to_nearest(weight: Tensor, bits: int = 4, group: int = 32) -> Quantized:
    """The nearest integer of each weight, over the range of its group."""
    check(weight, bits, group)
    groups = weight.float().unflatten(1, (-1, group))
    scale, zero = _scale_and_zero(groups, bits)
    return Quantized(_round(groups, scale, zero, bits).to(torch.uint8), scale, zero, bits)


def hqq(
    weight: Tensor, bits: int = 4, group: int = 32, power: float = 0.7, steps: int = 20
) -> Quantized:
    """Half-quadratic quantization: zero points that minimize the l_p norm (p < 1) of the error.

    Alternates a generalized soft threshold on the error, which forgives outliers, with the mean
    that gives the zero point in closed form (Badri and Shaji 2023, sections 3 and 4).
    """
    check(weight, bits, group)
    groups = weight.float().unflatten(1, (-1, group))
    scale, zero = _scale_and_zero(groups, bits)
    beta, best = 10.0, torch.inf
    kept = zero
    for _ in range(steps):
        integers = _round(groups, scale, zero, bits)
        error = groups - (integers - zero) * scale
        size = error.abs()
        if (now := float(size.mean())) >= best:
            break
        best, kept = now, zero
        shrunk = (size - size.clamp_min(1e-8) ** (power - 1) / beta).clamp_min(0) * error.sign()
        zero = (integers - (groups - shrunk) / scale).mean(-1, keepdim=True)
        beta *= 1.01
    integers = _round(groups, scale, kept, bits)
    return Quantized(integers.to(torch.uint8), scale, kept, bits)


def gptq(
    weight: Tensor, hessian: Tensor, bits: int = 4, group: int = 32, damping: float = 0.01
) -> Quantized:
    """GPTQ (2210.17323, algorithm 1): round column by column, and let the rest make up for it.

    hessian (in, in): sum of x x^T over inputs of real text. Scales are set at a group's first
    column, from the weights as they then are.
    """
    check(weight, bits, group)
    rest = weight.float().clone()
    inverse = _inverse_factor(hessian.float(), damping)
    integers = torch.empty_like(rest)
    scales, zeros = [], []
    for start in range(0, rest.shape[1], group):
        block = slice(start, start + group)
        scale, zero = _scale_and_zero(rest[:, block], bits)
        errors = torch.empty_like(rest[:, block])
        for column in range(start, start + group):
            level = _round(rest[:, column : column + 1], scale, zero, bits)
            error = rest[:, column : column + 1] - (level - zero) * scale
            error /= inverse[column, column]
            inside = slice(column, start + group)
            rest[:, inside] -= error * inverse[column, inside]
            integers[:, column : column + 1] = level
            errors[:, column - start : column - start + 1] = error
        rest[:, block.stop :] -= errors @ inverse[block, block.stop :]
        scales.append(scale)
        zeros.append(zero)
    scale, zero = torch.stack(scales, 1), torch.stack(zeros, 1)
    grouped = integers.unflatten(1, (-1, group)).to(torch.uint8)
    return Quantized(grouped, scale, zero, bits)


def _inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """Upper Cholesky factor of the damped inverse Hessian."""
    diagonal = hessian.diagonal()
    dead = diagonal == 0
    damped = hessian + torch.diag(damping * diagonal.mean() + dead.float())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)


class _Inputs:
    """Sums x x^T of what goes into a linear layer."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].float().reshape(-1, inputs[0].shape[-1])
        added = x.T @ x
        self.total = added if self.total is None else self.total + added


def linears(layer: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers inside a decoder layer, by name."""
    return {name: m for name, m in layer.named_modules() if isinstance(m, nn.Linear)}


class _Text:
    """A calibration text on its way through the layers, one layer at a time."""

    def __init__(self, decoder: Decoder, ids: Sequence[int]) -> None:
        self.rows = Rows.prefill(ids).to(decoder.device)
        self.cache = decoder.new_cache(1, len(self.rows))
        self.cache.reserve(self.rows)
        self.rope = decoder.rope(self.rows.positions)
        self.stream = decoder.embed_tokens(self.rows.tokens)

    def through(self, layer: nn.Module) -> Tensor:
        """The stream after a layer; what the layer wrote to the cache may be written again."""
        return layer(self.stream, self.rope, self.rows, self.cache)


def _hessians(layer: nn.Module, texts: Sequence[_Text]) -> dict[str, Tensor]:
    found = {name: _Inputs() for name in linears(layer)}
    hooks = [m.register_forward_pre_hook(found[name]) for name, m in linears(layer).items()]
    for text in texts:
        text.through(layer)
    for hook in hooks:
        hook.remove()
    return {name: sums.total for name, sums in found.items() if sums.total is not None}


def with_weight(linear: nn.Linear, weight: Tensor) -> nn.Linear:
    """A linear layer like another, over another matrix."""
    made = copy.copy(linear)
    made._parameters = dict(linear._parameters)
    made.weight = nn.Parameter(weight.to(linear.weight.dtype), requires_grad=False)
    return made


def _replace(layer: nn.Module, name: str, linear: nn.Linear) -> None:
    owner, _, last = name.rpartition(".")
    setattr(layer.get_submodule(owner), last, linear)


@dataclass(frozen=True)
class QuantizedDecoder:
    """A decoder over dequantized weights, and the bytes that the quantized ones take.

    It gives the answers that the quantized model gives; the speed is for kernels that read the
    packed integers.
    """

    decoder: Decoder
    method: str
    bits: int
    group: int
    weight_bytes: float


@torch.inference_mode()
def quantize(
    decoder: Decoder,
    method: str = "gptq",
    bits: int = 4,
    group: int = 32,
    calibration: Iterable[Sequence[int]] = (),
    head_bits: int | None = 8,
) -> QuantizedDecoder:
    """Quantize every matrix of the layers, and the head to nearest at `head_bits` (None: as is).

    method: rtn, hqq or gptq; gptq needs `calibration`, token ids of real texts, and goes layer by
    layer, each on the inputs that the quantized layers before it give. Raises ParameterError for
    an unknown method, width or group, or for gptq without calibration.
    """
    data_free: dict[str, Callable[..., Quantized]] = {"rtn": round_to_nearest, "hqq": hqq}
    texts = [list(ids) for ids in calibration]
    if method not in (*data_free, "gptq"):
        raise ParameterError(f"method {method!r} is unknown; allowed: rtn, hqq, gptq.")
    if method == "gptq" and not texts:
        raise ParameterError("gptq needs calibration texts (token ids); none were given.")
    made = shared_copy(decoder)
    streams = [_Text(made, ids) for ids in texts] if method == "gptq" else []
    held = 0.0
    for layer in tqdm(made.layers, desc=f"{method}, {bits} bits", leave=False):
        hessians = _hessians(layer, streams)
        for name, linear in linears(layer).items():
            if method == "gptq":
                found = gptq(linear.weight, hessians[name], bits, group)
            else:
                found = data_free[method](linear.weight, bits, group)
            held += found.nbytes
            _replace(layer, name, with_weight(linear, found.dequantize()))
        for text in streams:
            text.stream = text.through(layer)
    held += _quantize_head(made, head_bits, group)
    return QuantizedDecoder(made, method, bits, group, held)


def _quantize_head(decoder: Decoder, bits: int | None, group: int) -> float:
    """Quantize the head, and the embedding with it where they are one; returns its bytes."""
    if bits is None:
        return decoder.lm_head.weight.nbytes
    found = round_to_nearest(decoder.lm_head.weight, bits, group)
    tied: Any = decoder.embed_tokens.weight is decoder.lm_head.weight
    decoder.lm_head = with_weight(decoder.lm_head, found.dequantize())
    if tied:
        table = copy.copy(decoder.embed_tokens)
        table._parameters = dict(decoder.lm_head._parameters)
        decoder.embed_tokens = table
    return found.nbytes
