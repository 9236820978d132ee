"""The driver of MNN-LLM: its settings, and an export that reports nothing to anyone."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labkit.bench import worker
from tests.bench.engines import driver_of, options_of


def test_mnn_gets_its_threads_and_tells_its_weights(load: Callable[..., Any]) -> None:
    engine = load("mnn")
    model = importlib.import_module("MNN.llm").LAST[0]
    assert model.config["thread_num"] == 3
    assert engine.weight_bytes == 1234
    assert engine.weights.startswith("int4 of its own (blocks of 64, head int4)")
    assert not engine.same_weights


def test_mnn_exports_once_and_reports_nothing(toy: Any, tmp_path: Path) -> None:
    driver = worker.load_driver(str(driver_of("mnn")))
    options = options_of("mnn", tmp_path, block=32, head_bits=8)
    for _ in range(2):
        driver.prepare(options)
    made = tmp_path / "store" / "mnn-int4-32-head-int8"
    words = json.loads((made / "llm.mnn.weight").read_text())
    assert words[words.index("--quant_block") + 1] == "32"
    assert words[words.index("--lm_quant_bit") + 1] == "8"
    assert words[words.index("--path") + 1] == str(tmp_path / "m")
    assert not (made / "onnx").exists()


def test_an_export_that_fails_leaves_nothing(toy: Any, tmp_path: Path) -> None:
    driver = worker.load_driver(str(driver_of("mnn")))
    options = options_of("mnn", tmp_path, block=32, head_bits=8, directory="unreadable")
    with pytest.raises(RuntimeError, match="could not export the model: no such model"):
        driver.prepare(options)
    assert [file.name for file in (tmp_path / "store").iterdir()] == ["mnn-int4-64-head-int4"]
