"""A prompt lookup that is right for a while, then wrong."""

from __future__ import annotations

import numpy as np
import toy


class LlamaPromptLookupDecoding:
    """Drafts the toy's own tokens, of which all after the first `length % 3` are spoiled."""

    def __init__(self, num_pred_tokens: int) -> None:
        self.count = num_pred_tokens

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        toy.EVENTS.append(("draft", len(ids)))
        tokens = toy.continuation(ids.tolist(), self.count)
        right = len(ids) % 3
        return np.array([*tokens[:right], *((t + 1) % toy.VOCAB for t in tokens[right:])], np.intc)
