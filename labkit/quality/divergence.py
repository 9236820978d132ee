"""What a change cost in answers: perplexity, KL divergence and top-1 agreement, teacher-forced."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

# ids of a text -> logits (rows, vocab) float32 of every position
Logits = Callable[[Sequence[int]], Tensor]


@dataclass(frozen=True)
class Divergence:
    """How a variant's next-token distributions differ from the baseline's on the same text.

    kl: nats, one value a position; same_top: argmax equal, one a position; log-likelihoods in
    nats of the token that followed, one a position that has one.
    """

    kl: np.ndarray
    same_top: np.ndarray
    baseline_loss: np.ndarray
    variant_loss: np.ndarray

    @property
    def perplexity(self) -> tuple[float, float]:
        """(baseline, variant)."""
        return float(np.exp(self.baseline_loss.mean())), float(np.exp(self.variant_loss.mean()))

    def quality(self) -> dict[str, Any]:
        """What a finding says of it."""
        before, after = self.perplexity
        return {
            "positions": int(self.kl.size),
            "top1_agreement": float(self.same_top.mean()),
            "kl_mean": float(self.kl.mean()),
            "kl_p99": float(np.quantile(self.kl, 0.99)),
            "perplexity": after,
            "perplexity_ratio": after / before,
        }


def _one_text(ids: Sequence[int], baseline: Tensor, variant: Tensor) -> Divergence:
    expected = baseline.double().log_softmax(-1)
    found = variant.double().log_softmax(-1)
    kl = (expected.exp() * (expected - found)).sum(-1).clamp_min(0)
    following = torch.tensor(ids[1:], device=expected.device)[:, None]
    losses = [-logs[:-1].gather(1, following)[:, 0] for logs in (expected, found)]
    same = expected.argmax(-1) == found.argmax(-1)
    return Divergence(*(part.cpu().numpy() for part in (kl, same, *losses)))


def divergence(texts: Iterable[Sequence[int]], baseline: Logits, variant: Logits) -> Divergence:
    """Run both on every text (token ids) and gather all positions.

    KL is of the baseline from the variant, KL(baseline || variant).
    """
    parts = [_one_text(ids, baseline(ids), variant(ids)) for ids in texts]
    fields = ("kl", "same_top", "baseline_loss", "variant_loss")
    return Divergence(*(np.concatenate([getattr(p, name) for p in parts]) for name in fields))
