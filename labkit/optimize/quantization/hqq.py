"""HQQ: zero points moved so that the error's outliers count less; it needs no data."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.optimize.quantization.grid import Quantized, full_range, grouped, stored, to_levels


def hqq(
    weight: Tensor, bits: int = 4, group: int | None = 32, power: float = 0.7, steps: int = 20
) -> Quantized:
    """Half-quadratic quantization: zero points that minimize the l_p norm (p < 1) of the error.

    Alternates a generalized soft threshold on the error, which forgives outliers, with the mean
    that gives the zero point in closed form (Badri and Shaji 2023, sections 3 and 4).
    """
    groups = grouped(weight, bits, group)
    scale, zero = full_range(groups, bits)
    beta, best, kept = 10.0, torch.inf, zero
    for _ in range(steps):
        levels = to_levels(groups, scale, zero, bits)
        error = groups - (levels - zero) * scale
        size = error.abs()
        if (now := float(size.mean())) >= best:
            break
        best, kept = now, zero
        shrunk = (size - size.clamp_min(1e-8) ** (power - 1) / beta).clamp_min(0) * error.sign()
        moved = (levels - (groups - shrunk) / scale).mean(-1, keepdim=True)
        scale, zero = stored(scale, moved)
        beta *= 1.01
    levels = to_levels(groups, scale, kept, bits)
    return Quantized(levels.to(torch.uint8), scale, kept, bits)
