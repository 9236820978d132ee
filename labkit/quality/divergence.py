"""How much a change altered the answers: perplexity, KL divergence, top-1 agreement.

All are teacher-forced: both models read the same text, and their distributions over the next token
are compared at every position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

# ids of a text -> logits (rows, vocab) float32 of every position
Logits = Callable[[Sequence[int]], Tensor]
_BLOCK = 64  # rows compared at once: their logits fit into a processor's cache
# The bootstrap draws blocks of this many neighbouring positions, this many times.
_NEIGHBOURS = 256
_FEWEST_BLOCKS = 32  # where the text is short, blocks are shorter: a few of them say little
_DRAWS = 2000
_95 = (0.025, 0.975)


@dataclass(frozen=True)
class Divergence:
    """How a variant's distributions over the next token differ from the baseline's.

    kl: KL(baseline || variant) in nats, one value a position. same_top: whether the argmax is the
    same, one value a position. The losses: minus the log-likelihood (nats) of the token that really
    came next, one value a position that has a next token.
    """

    kl: np.ndarray
    same_top: np.ndarray
    baseline_loss: np.ndarray
    variant_loss: np.ndarray

    @staticmethod
    def pooled(parts: Sequence[Divergence]) -> Divergence:
        """The positions of several texts together."""
        names = [entry.name for entry in fields(Divergence)]
        return Divergence(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))

    @property
    def perplexity(self) -> tuple[float, float]:
        """Perplexity of the baseline and of the variant."""
        return float(np.exp(self.baseline_loss.mean())), float(np.exp(self.variant_loss.mean()))

    @property
    def excess(self) -> float:
        """Perplexity ratio - 1: 0.02 means that the variant's perplexity is 2 % higher."""
        return float(np.expm1((self.variant_loss - self.baseline_loss).mean()))

    def quality(self) -> dict[str, Any]:
        """As the `quality` of a finding."""
        return {
            "positions": int(self.kl.size),
            "top1_agreement": float(self.same_top.mean()),
            "kl_mean": float(self.kl.mean()),
            "kl_p99": float(np.quantile(self.kl, 0.99)),
            "perplexity": self.perplexity[1],
            "perplexity_ratio": 1 + self.excess,
        }

    def judged(self) -> dict[str, float]:
        """`kl_mean`, `kl_p99`, `top1_agreement` and `perplexity_ratio`, and `positions`.

        Each has its 95 % interval (`kl_mean_low`, `kl_mean_high`, `kl_p99_low`, ..., `top1_low`,
        `top1_high`, `perplexity_low`, `perplexity_high`): a bootstrap over blocks of neighbouring
        positions. It says how much another text of this kind could change the number.
        """
        found: dict[str, float] = dict(self.quality())
        excess = self.variant_loss - self.baseline_loss
        intervals = {
            "kl_mean": _interval_of_mean(self.kl),
            "kl_p99": _interval_of_quantile(self.kl, 0.99),
            "top1": _interval_of_mean(self.same_top.astype(float)),
            "perplexity": tuple(np.exp(_interval_of_mean(excess))),
        }
        for name, (low, high) in intervals.items():
            found |= {f"{name}_low": float(low), f"{name}_high": float(high)}
        return found


def _kl(expected: Tensor, found: Tensor) -> Tensor:
    """KL(expected || found) of each row from log-probabilities (rows, vocab), nats.

    With d = log expected - log found and p = expected it is the sum of p (d + exp(-d) - 1): the
    terms added to p d cancel, because both distributions add up to one. No term is negative, and an
    error of rounding in d counts only squared.
    """
    apart = expected - found
    return ((torch.expm1(-apart) + apart) * expected.exp()).sum(-1, dtype=torch.float64)


def _block(baseline: Tensor, variant: Tensor, following: Tensor) -> Divergence:
    expected, found = baseline.float().log_softmax(-1), variant.float().log_softmax(-1)
    some = len(following)
    losses = (-logs[:some].gather(1, following[:, None])[:, 0] for logs in (expected, found))
    same = baseline.argmax(-1) == variant.argmax(-1)
    parts = (_kl(expected, found), same, *(loss.double() for loss in losses))
    return Divergence(*(part.cpu().numpy() for part in parts))


def between(baseline: Tensor, variant: Tensor, following: Sequence[int]) -> Divergence:
    """Compare two models' logits (rows, vocab) of the same rows.

    following: the token id after each row; the last row may have none.
    """
    ids = torch.tensor(following, dtype=torch.int64, device=baseline.device)
    blocks = [slice(at, at + _BLOCK) for at in range(0, len(baseline), _BLOCK)]
    there = variant.to(baseline.device)
    return Divergence.pooled([_block(baseline[at], there[at], ids[at]) for at in blocks])


def divergence(texts: Iterable[Sequence[int]], baseline: Logits, variant: Logits) -> Divergence:
    """Run both on every text (token ids) and compare them at all positions."""
    parts = [between(baseline(ids), variant(ids), ids[1:]) for ids in texts]
    return Divergence.pooled(parts)


def share_of_excess(better: Divergence, worse: Divergence) -> tuple[float, float, float]:
    """better.excess / worse.excess on the same text, with its 95 % interval: (value, low, high)."""
    pair = [d.variant_loss - d.baseline_loss for d in (better, worse)]
    return (better.excess / worse.excess, *_interval_of_ratio(pair, np.expm1))


def share_of_kl(one: Divergence, other: Divergence) -> tuple[float, float, float]:
    """Mean KL of one over that of the other on the same text: (value, low, high of 95 %)."""
    pair = [one.kl, other.kl]
    return (float(one.kl.mean() / other.kl.mean()), *_interval_of_ratio(pair, np.asarray))


def _blocks(positions: int) -> np.ndarray:
    """The block of each position, counted from 0."""
    blocks = max(positions // _NEIGHBOURS, min(_FEWEST_BLOCKS, positions))
    return np.arange(positions) * blocks // positions


def _drawn(blocks: int) -> np.ndarray:
    """How often each draw of the bootstrap takes each block, (draws, blocks)."""
    chosen = np.random.default_rng(0).integers(blocks, size=(_DRAWS, blocks))
    return np.stack([np.bincount(row, minlength=blocks) for row in chosen])


def _interval_of_mean(values: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of one value a position."""
    block = _blocks(values.size)
    drawn = _drawn(block[-1] + 1)
    means = drawn @ np.bincount(block, values) / (drawn @ np.bincount(block))
    low, high = np.quantile(means, _95)
    return float(low), float(high)


def _interval_of_quantile(values: np.ndarray, share: float) -> tuple[float, float]:
    """95 % interval of a quantile: the value that this share of the drawn positions do not pass."""
    order = np.argsort(values)
    block = _blocks(values.size)
    found = []
    for row in _drawn(block[-1] + 1):
        passed = np.cumsum(row[block[order]])
        found.append(values[order[np.searchsorted(passed, share * passed[-1])]])
    low, high = np.quantile(found, _95)
    return float(low), float(high)


def _interval_of_ratio(
    pair: Sequence[np.ndarray], of_mean: Callable[[np.ndarray], np.ndarray]
) -> tuple[float, float]:
    """95 % interval of of_mean(mean of the first) / of_mean(mean of the second).

    A bootstrap over blocks of positions, because neighbours are alike. Both means come from the
    same draw, because both models read the same text.
    """
    values = np.stack(list(pair))
    block = _blocks(values.shape[1])
    often = _drawn(block[-1] + 1)
    sums = np.stack([np.bincount(block, row) for row in values])  # (2, blocks)
    drawn = of_mean(often @ sums.T / (often @ np.bincount(block))[:, None])  # (_DRAWS, 2)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], _95)
    return float(low), float(high)
