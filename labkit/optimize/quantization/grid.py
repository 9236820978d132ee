"""The grid that weights are rounded to: integers in groups, a scale and a zero point a group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.errors import ParameterError

BITS = (2, 3, 4, 5, 6, 8)
# Shares of a group's own range to try as its clipped range, from the widest to the narrowest.
_SHRINKS = (1.0, 0.93, 0.86, 0.79, 0.72)


@dataclass(frozen=True)
class Quantized:
    """A matrix in groups: integers (out, groups, group) uint8, scale and zero (out, groups, 1).

    A weight is (integer - zero) * scale. Scale and zero are float32, but their values fit 16 bits.
    """

    integers: Tensor
    scale: Tensor
    zero: Tensor
    bits: int

    def dequantize(self) -> Tensor:
        """The matrix it stands for, (out, in) float32."""
        return ((self.integers - self.zero) * self.scale).flatten(1)

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return self.integers.shape[-1]

    @property
    def symmetric(self) -> bool:
        """Whether every zero point is the middle of the grid, so that none needs storing."""
        return bool((self.zero == 2 ** (self.bits - 1)).all())

    @property
    def nbytes(self) -> float:
        """Bytes with the integers packed, a 16-bit scale a group, and a zero point where needed."""
        numbers = 1 if self.symmetric else 2
        return self.integers.numel() * self.bits / 8 + self.scale.numel() * 2 * numbers


def grouped(weight: Tensor, bits: int, group: int | None) -> Tensor:
    """(out, in) -> (out, groups, group) float32; None makes a row one group.

    Raises ParameterError for bits that are not in BITS, or a group that does not divide the inputs.
    """
    size = weight.shape[1] if group is None else group
    if bits not in BITS:
        allowed = ", ".join(map(str, BITS))
        raise ParameterError(f"{bits} bits are not supported; allowed: {allowed}.")
    if size < 1 or weight.shape[1] % size:
        raise ParameterError(
            f"groups of {size} do not divide the {weight.shape[1]} inputs of a matrix."
        )
    return weight.float().reshape(len(weight), -1, size)


def stored(scale: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point rounded to 16 bits."""
    least = 2.0**-20  # a scale that is still above 0 in 16 bits
    return scale.clamp_min(least).half().float(), zero.half().float()


def _of_range(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    scale = (high - low) / (2**bits - 1)
    return stored(scale, -low / scale.clamp_min(1e-8))


def full_range(groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale and zero (..., 1) for the range of each group's weights, 0 included."""
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    return _of_range(low.clamp_max(0), high.clamp_min(0), bits)


def symmetric_range(groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale of the largest absolute weight of a group, and the middle as its zero point."""
    half = 2 ** (bits - 1)
    scale = groups.abs().amax(-1, keepdim=True) / (half - 1)
    return stored(scale, torch.full_like(scale, half))


def to_levels(groups: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """The nearest level of each weight, as float32."""
    return (groups / scale + zero).round_().clamp_(0, 2**bits - 1)


def fit(groups: Tensor, levels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero of each group, fitted to its (level, weight) pairs by weighted least squares.

    weights: (groups, group), how much an error of an input counts.
    """
    total = weights.sum(-1, keepdim=True)
    mean_level = (weights * levels).sum(-1, keepdim=True) / total
    mean = (weights * groups).sum(-1, keepdim=True) / total
    off = levels - mean_level
    scale = (weights * off * (groups - mean)).sum(-1, keepdim=True)
    scale /= (weights * off * off).sum(-1, keepdim=True).clamp_min(1e-12)
    scale = scale.clamp_min(1e-8)
    return stored(scale, mean_level - mean / scale)


def searched_range(groups: Tensor, bits: int, importance: Tensor) -> tuple[Tensor, Tensor]:
    """The scale and zero with the least weighted squared error, among clipped and fitted ranges.

    importance (in,): mean square of each input in real text. A wide range spends its levels on a
    few large weights; a narrow range cuts those off.
    """
    weights = importance.view(groups.shape[1:]).clamp_min(1e-8 * float(importance.mean()) + 1e-30)
    low = groups.amin(-1, keepdim=True).clamp_max(0)
    high = groups.amax(-1, keepdim=True).clamp_min(0)
    best = torch.full_like(low, torch.inf)
    scale, zero = torch.ones_like(low), torch.zeros_like(low)
    for shrink in _SHRINKS:
        tried = _of_range(low * shrink, high * shrink, bits)
        for candidate in (tried, fit(groups, to_levels(groups, *tried, bits), weights)):
            off = groups - (to_levels(groups, *candidate, bits) - candidate[1]) * candidate[0]
            error = (weights * off * off).sum(-1, keepdim=True)
            better = error < best
            best = torch.where(better, error, best)
            scale = torch.where(better, candidate[0], scale)
            zero = torch.where(better, candidate[1], zero)
    return scale, zero


def round_to_nearest(
    weight: Tensor, bits: int = 4, group: int | None = 32, symmetric: bool = False
) -> Quantized:
    """The nearest integer of each weight, over the range of its group (None: of its row)."""
    groups = grouped(weight, bits, group)
    scale, zero = (symmetric_range if symmetric else full_range)(groups, bits)
    return Quantized(to_levels(groups, scale, zero, bits).to(torch.uint8), scale, zero, bits)
