"""MNN-LLM, as far as the driver uses it; LAST is the model made last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import toy

LAST: list[Any] = []


class Var:
    def __init__(self, data: np.ndarray) -> None:
        self.data = data

    def read(self) -> np.ndarray:
        return self.data


class Llm:
    """A pass gives the logits of its last row; without a reset it goes on."""

    def __init__(self, path: str) -> None:
        self.path, self.config, self.loaded = path, dict[str, Any](), False
        self.tokens: list[int] = []
        self.buffer = np.zeros((1, toy.VOCAB), np.float32)
        LAST[:] = [self]

    def set_config(self, config: dict[str, Any]) -> bool:
        assert not self.loaded
        self.config |= config
        return True

    def load(self) -> None:
        self.loaded = True

    def reset(self) -> None:
        self.tokens.clear()

    def forward(self, ids: list[int]) -> Var:
        assert self.loaded
        toy.EVENTS.append(("rows", len(ids)))
        self.tokens += ids
        self.buffer[0] = toy.logits(self.tokens)[-1]  # over those of the pass before
        return Var(self.buffer[None])


def create(path: str) -> Llm:
    assert Path(path).is_file()
    return Llm(path)
