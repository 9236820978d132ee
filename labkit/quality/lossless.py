"""Same answer? Two greedy token streams compared, and what their first difference means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from labkit.model.forward import Forward
from labkit.model.rows import Rows


@dataclass(frozen=True)
class SameAnswer:
    """How far two greedy streams agree.

    tokens: how many were compared. equal: how many agree before the first difference. margin: at
    the first difference, the reference's logit of the one token minus that of the other, without
    its sign; None where all tokens agree. tie: a margin up to this counts as rounding.
    """

    tokens: int
    equal: int
    margin: float | None = None
    tie: float = 1e-3

    @property
    def lossless(self) -> bool:
        """All tokens equal, or the first difference is a tie within rounding."""
        return self.margin is None or self.margin <= self.tie

    def quality(self) -> dict[str, Any]:
        """As the `quality` of a finding."""
        found: dict[str, Any] = {"lossless": self.lossless, "tokens_compared": self.tokens}
        if self.margin is not None:
            found |= {"first_difference": self.equal, "margin": self.margin}
        return found

    def __str__(self) -> str:
        if self.margin is None:
            return f"all {self.tokens} tokens equal"
        word = "a tie" if self.lossless else "a real difference"
        return f"first difference at token {self.equal}: {word} (logit margin {self.margin:.2g})"


def tie_margin(dtype: torch.dtype) -> float:
    """Logits at most this far apart count as a tie: two steps of the dtype at a logit of 16."""
    return max(1e-3, 32 * torch.finfo(dtype).eps)


def same_answer(
    reference: Forward,
    prompt: Sequence[int],
    expected: Sequence[int],
    found: Sequence[int],
    tie: float = 1e-3,
) -> SameAnswer:
    """Compare two greedy continuations of a prompt, `expected` and `found`.

    The reference computes the logits at the first difference. Where one stream ends before the
    other, that is a difference with an infinite margin.
    """
    pairs = enumerate(zip(expected, found, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(expected), len(found)))
    if at == len(expected) == len(found):
        return SameAnswer(len(expected), at)
    if at in (len(expected), len(found)):
        return SameAnswer(len(expected), at, float("inf"), tie)
    rows = Rows.prefill([*prompt, *expected[:at]])
    with torch.inference_mode():
        logits = reference(rows, reference.new_cache(1, len(rows)))[-1]
    margin = abs(float(logits[expected[at]] - logits[found[at]]))
    return SameAnswer(len(expected), at, margin, tie)
