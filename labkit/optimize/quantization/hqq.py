"""HQQ: zero points chosen so that outliers of the error count less. It needs no data."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.optimize.quantization.grid import Quantized, full_range, grouped, stored, to_levels

_POWER, _STEPS = 0.7, 20  # p of the norm; most iterations


def hqq(weight: Tensor, bits: int = 4, group: int | None = 32) -> Quantized:
    """Half-quadratic quantization: zero points that minimize the l_p norm (p < 1) of the error.

    Two steps alternate: a generalized soft threshold on the error, which tolerates outliers, and a
    mean, which gives the zero point in closed form (Badri and Shaji 2023, sections 3 and 4).
    """
    groups = grouped(weight, bits, group)
    scale, zero = full_range(groups, bits)
    beta, best, kept = 10.0, torch.inf, zero
    for _ in range(_STEPS):
        levels = to_levels(groups, scale, zero, bits)
        error = groups - (levels - zero) * scale
        size = error.abs()
        if (now := float(size.mean())) >= best:
            break
        best, kept = now, zero
        shrunk = (size - size.clamp_min(1e-8) ** (_POWER - 1) / beta).clamp_min(0) * error.sign()
        moved = (levels - (groups - shrunk) / scale).mean(-1, keepdim=True)
        scale, zero = stored(scale, moved)
        beta *= 1.01
    levels = to_levels(groups, scale, kept, bits)
    return Quantized(levels.to(torch.uint8), scale, kept, bits)
