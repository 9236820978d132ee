"""ONNX Runtime GenAI, as far as the driver uses it; LAST is the model made last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import toy

LAST: list[Any] = []


def _merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    for name, value in more.items():
        if isinstance(value, dict):
            _merge(into.setdefault(name, {}), value)
        else:
            into[name] = value


class Config:
    """The folder's genai_config.json, with what is laid over it."""

    def __init__(self, folder: str) -> None:
        self.values = json.loads(Path(folder, "genai_config.json").read_text())

    def overlay(self, text: str) -> None:
        _merge(self.values, json.loads(text))


class Model:
    def __init__(self, config: Config) -> None:
        self.values = config.values["model"]
        self.generators: list[Any] = []
        LAST[:] = [self]


class GeneratorParams:
    def __init__(self, model: Model) -> None:
        self.search: dict[str, Any] = {"max_length": 0, "min_length": 0, "do_sample": True}

    def set_search_options(self, **options: Any) -> None:
        self.search |= options


class Generator:
    """Greedy tokens; it stops at the end of sequence, and refuses to go on after it."""

    def __init__(self, model: Model, params: GeneratorParams) -> None:
        self.model, self.search = model, params.search
        self.batch: list[list[int]] = [[] for _ in range(self.search.get("batch_size", 1))]
        self.done = False
        model.generators.append(self)

    def append_tokens(self, ids: np.ndarray) -> None:
        assert ids.dtype == np.int32
        assert ids.shape[0] == len(self.batch)
        toy.EVENTS.append(("rows", ids.size))
        self.first = len(self.batch[0])
        for tokens, more in zip(self.batch, ids.tolist(), strict=True):
            tokens += more

    def generate_next_token(self) -> None:
        length = len(self.batch[0])
        if self.done or length >= self.search["max_length"]:
            raise RuntimeError("the generator\nis done")
        assert not self.search["do_sample"]
        end = self.model.values["eos_token_id"]
        toy.EVENTS.append(("token", length))
        for tokens in self.batch:
            row = toy.logits(tokens)[-1]
            if length < self.search["min_length"]:
                row[end] = -np.inf
            tokens.append(int(row.argmax()))
            self.done |= tokens[-1] == end

    def get_next_tokens(self) -> np.ndarray:
        return np.array([tokens[-1] for tokens in self.batch], np.int32)

    def get_output(self, name: str) -> np.ndarray:
        assert name == "logits"
        return np.array([toy.logits(tokens)[self.first :] for tokens in self.batch])
