"""Same answer? Greedy token streams against each other, and what a first difference means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from labkit.model.generate import Forward
from labkit.model.rows import Rows


@dataclass(frozen=True)
class SameAnswer:
    """How far two greedy streams agree.

    margin: the gap between the logits of the two tokens at the first difference, as the
    reference sees them; None where all tokens are equal.
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
        """What a finding says of it."""
        found: dict[str, Any] = {"lossless": self.lossless, "tokens_compared": self.tokens}
        if self.margin is not None:
            found |= {"first_difference": self.equal, "margin": self.margin}
        return found

    def __str__(self) -> str:
        if self.margin is None:
            return f"all {self.tokens} tokens equal"
        word = "a tie" if self.lossless else "a real difference"
        return f"first difference at token {self.equal}: {word} (logit margin {self.margin:.2g})"


def same_answer(
    reference: Forward,
    prompt: Sequence[int],
    expected: Sequence[int],
    found: Sequence[int],
    tie: float = 1e-3,
) -> SameAnswer:
    """Compare two greedy continuations of a prompt; the reference judges the first difference.

    A stream that ends early where the other goes on is a difference at its end with an infinite
    margin.
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


def all_same(
    reference: Forward,
    prompts: Sequence[Sequence[int]],
    expected: Callable[[Sequence[int]], Sequence[int]],
    found: Callable[[Sequence[int]], Sequence[int]],
) -> SameAnswer:
    """Run both on every prompt; the first real difference, or all tokens together."""
    total = 0
    worst: SameAnswer | None = None
    for prompt in prompts:
        same = same_answer(reference, prompt, expected(prompt), found(prompt))
        total += same.tokens
        if not same.lossless:
            return same
        worst = worst or (same if same.margin is not None else None)
    return worst or SameAnswer(total, total)
