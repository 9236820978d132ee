"""GPTQ, and what makes it better: searched scales, important inputs first, and refinement.

All of it minimizes tr((W - Q) H (W - Q)^T), the squared error of the layer's outputs on real text,
where H is the sum of x x^T over inputs (Frantar et al., 2210.17323). Matrices are transposed here,
(in, out), so that the weights of one input lie together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.base.device import threads
from labkit.optimize.quantization.grid import Quantized, grouped, searched_range, stored

_BLOCK = 32  # inputs; one matrix product applies their effect to all later inputs


@dataclass
class _State:
    """The solution so far: levels, and scale and zero of each input's group, all (in, out)."""

    levels: Tensor
    scale: Tensor
    zero: Tensor
    top: int

    def value(self, at: int | slice) -> Tensor:
        return (self.levels[at] - self.zero[at]) * self.scale[at]

    def nearest(self, weight: Tensor, at: int) -> Tensor:
        """Levels of one input's weights (out,)."""
        return (weight / self.scale[at]).add_(self.zero[at]).round_().clamp_(0, self.top)


def damped(hessian: Tensor, damping: float, shrink: float) -> Tensor:
    """The Hessian to solve with: its correlations are shrunk, and its diagonal has no zero.

    The correlations of a thousand inputs, estimated from some thousand tokens, are partly chance.
    Correcting for chance makes the error on unseen text larger. So all entries off the diagonal
    lose a share `shrink` (Ledoit and Wolf, 2004), and a share `damping` of the diagonal's mean is
    added to the diagonal.
    """
    diagonal = hessian.diagonal()
    dead = (diagonal == 0).float()
    kept = (1 - shrink) * hessian
    return kept + torch.diag(shrink * diagonal + damping * diagonal.mean() + dead)


def _inverse_factor(hessian: Tensor) -> Tensor:
    """Upper triangular U with U^T U = H^-1.

    H is reversed along both axes, its Cholesky factor is inverted, and that is reversed back.
    """
    backwards = torch.linalg.cholesky(hessian.flip(0, 1))
    eye = torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
    inverse: Tensor = torch.linalg.solve_triangular(backwards, eye, upper=False)
    return inverse.flip(0, 1)


def _compensate(weight: Tensor, hessian: Tensor, state: _State) -> None:
    """Algorithm 1 of GPTQ: round one input after another; later inputs correct its error.

    weight (in, out) and state are in the order of `hessian`. weight is overwritten.
    """
    factor = _inverse_factor(hessian)
    for start in range(0, len(weight), _BLOCK):
        stop = min(start + _BLOCK, len(weight))
        errors = torch.empty_like(weight[start:stop])
        for at in range(start, stop):
            state.levels[at] = state.nearest(weight[at], at)
            errors[at - start] = (weight[at] - state.value(at)) / factor[at, at]
            weight[at + 1 : stop].addr_(factor[at, at + 1 : stop], errors[at - start], alpha=-1)
        weight[stop:] -= factor[start:stop, stop:].T @ errors


def _descend(weight: Tensor, hessian: Tensor, state: _State) -> None:
    """One sweep of coordinate descent: round each input again, with all others fixed.

    No step makes the squared error larger (QuantEase, Behdin et al., 2309.01885).
    """
    slope = hessian @ (weight - state.value(slice(None)))  # (in, out)
    for start in range(0, len(weight), _BLOCK):
        stop = min(start + _BLOCK, len(weight))
        moves = torch.empty_like(weight[start:stop])
        for at in range(start, stop):
            before = state.value(at)
            state.levels[at] = state.nearest(before + slope[at] / hessian[at, at], at)
            moves[at - start] = state.value(at) - before
            slope[start:stop].addr_(hessian[start:stop, at], moves[at - start], alpha=-1)
        outside = hessian[:, start:stop] @ moves
        slope[:start] -= outside[:start]
        slope[stop:] -= outside[stop:]


def _refit(weight: Tensor, hessian: Tensor, state: _State, group: int) -> None:
    """Fit the scale and zero of each group again, with levels and other groups fixed.

    This is least squares with two unknowns for each group and output. The new pair is kept only
    where it lowers the error after rounding to 16 bits.
    """
    slope = hessian @ (weight - state.value(slice(None)))
    for start in range(0, len(weight), group):
        at = slice(start, start + group)
        inner, levels, now = hessian[at, at], state.levels[at], state.value(at)
        seen = inner @ levels
        a, c = (levels * seen).sum(0), inner.sum()
        b = seen.sum(0)
        right, left = (levels * slope[at]).sum(0), slope[at].sum(0)
        det = (a * c - b * b).clamp_min(1e-12 * float(c) ** 2 + 1e-30)
        scale = state.scale[start] + (right * c - left * b) / det
        offset = -state.scale[start] * state.zero[start] + (left * a - right * b) / det
        scale, zero = stored(scale, -offset / scale.clamp_min(1e-8))
        move = (levels - zero) * scale - now
        gain = (move * (2 * slope[at] - inner @ move)).sum(0)
        better = (gain > 0) & (scale > 0)
        state.scale[at] = torch.where(better, scale, state.scale[start])
        state.zero[at] = torch.where(better, zero, state.zero[start])
        slope -= hessian[:, at] @ (move * better)


def gptq(
    weight: Tensor,
    hessian: Tensor,
    bits: int = 4,
    group: int | None = 32,
    damping: float = 0.01,
    shrink: float = 0.3,
    sweeps: int = 1,
) -> Quantized:
    """Levels, scales and zero points with a small squared error of the outputs.

    weight (out, in); hessian (in, in): the sum of x x^T over inputs of real text. The steps: search
    the scales; run GPTQ, starting with the inputs of the largest mean square; then, `sweeps` times,
    refit the scales and run one sweep of coordinate descent.
    """
    groups = grouped(weight, bits, group)
    solid = damped(hessian.float(), damping, shrink)
    scale, zero = searched_range(groups, bits, solid.diagonal())
    with threads(1):  # thousands of small steps: threads would wait longer than they compute
        return _solved(weight, solid, scale, zero, bits, sweeps)


def _solved(
    weight: Tensor, solid: Tensor, scale: Tensor, zero: Tensor, bits: int, sweeps: int
) -> Quantized:
    size = weight.shape[1] // scale.shape[1]
    target = weight.float().T.contiguous()
    state = _State(torch.empty_like(target), _spread(scale, size), _spread(zero, size), 2**bits - 1)
    order = solid.diagonal().argsort(descending=True)
    sorted_state = _State(state.levels, state.scale[order], state.zero[order], state.top)
    _compensate(target[order], solid[order][:, order], sorted_state)
    state.levels = sorted_state.levels[order.argsort()]
    for _ in range(sweeps):
        _refit(target, solid, state, size)
        _descend(target, solid, state)
    return _result(state, size, bits)


def _spread(part: Tensor, group: int) -> Tensor:
    """(out, groups, 1) -> (in, out): the value of a group is repeated for each of its inputs."""
    return part[..., 0].T.repeat_interleave(group, 0)


def _result(state: _State, group: int, bits: int) -> Quantized:
    levels = state.levels.T.unflatten(1, (-1, group)).to(torch.uint8)
    scale, zero = (part[::group].T[..., None].contiguous() for part in (state.scale, state.zero))
    return Quantized(levels.contiguous(), scale, zero, bits)
