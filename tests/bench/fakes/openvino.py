"""OpenVINO, as far as the driver uses it; COMPILED is what was compiled last."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import toy

COMPILED: dict[str, Any] = {}


class Tensor:
    def __init__(self, data: np.ndarray) -> None:
        self.data = data


class Core:
    def compile_model(self, path: Path, device: str, properties: dict[str, Any]) -> Any:
        COMPILED.update(path=path, device=device, properties=properties)
        names = ("input_ids", "attention_mask", "position_ids", "beam_idx")
        inputs = [SimpleNamespace(names={name, name + "_1"}) for name in names]
        return SimpleNamespace(inputs=inputs, create_infer_request=Request)


class Request:
    def infer(self, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        ids = given["input_ids"][0].tolist()
        assert given["attention_mask"].tolist() == [[1] * len(ids)]
        assert given["position_ids"].tolist() == [list(range(len(ids)))]
        assert given["beam_idx"].tolist() == [0]
        return {"logits": toy.logits(ids)[None]}
