"""A toy model for fake engines: its logits depend on every token before them, in order.

EVENTS: what engines computed and drivers emitted, in order. WRONG_FROM: batches of so many rows or
more get wrong logits, as one engine's do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

VOCAB = 50
EVENTS: list[tuple[str, int]] = []
WRONG_FROM: list[int] = []


def logits(tokens: Sequence[int]) -> np.ndarray:
    """(tokens, vocab) float32; the last token of the vocabulary is never the likeliest."""
    numbers = np.arange(VOCAB)
    rows, state = [], 0
    for token in tokens:
        state = (31 * state + int(token) + 7) % 1009
        row = (state * (numbers * numbers + 3 * numbers + 1)) % 997 / 100
        row[-1] = -1
        rows.append(row)
    return np.array(rows, np.float32)


def continuation(prompt: Sequence[int], count: int) -> list[int]:
    """Its greedy tokens after a prompt."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(logits(tokens)[-1].argmax()))
    return tokens[len(prompt) :]
