"""Engines judged and asked in their own processes, on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labkit.bench import client, quality
from labkit.bench.client import Source
from labkit.model.load import LoadedModel, load
from labkit.workload.questions import short
from tests.tiny import save_tiny_model

TEXTS = [[5, 1, 7, 3, 2, 9, 4] * 6, list(range(40))]
NAMES = ("kl_mean", "kl_p99", "top1", "perplexity")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, LoadedModel]:
    folder = save_tiny_model(tmp_path_factory.mktemp("model"))
    return client.locate(str(folder)), load(str(folder))


def test_each_engine_has_its_numbers_with_intervals(model: tuple[Source, LoadedModel]) -> None:
    source, loaded = model
    names = ["plain", "transformers:bf16", "llama.cpp"]
    found, failed = quality.judge_variants(names, source, loaded.decoder, TEXTS)
    assert set(failed) == {"llama.cpp"}  # it reads GGUF files only
    assert set(found) == {"plain", "transformers:bf16"}
    for judged in found.values():
        assert judged["positions"] == 82
        for name in NAMES:
            value = {"top1": "top1_agreement", "perplexity": "perplexity_ratio"}.get(name, name)
            assert judged[f"{name}_low"] <= judged[value] <= judged[f"{name}_high"]
    assert found["plain"]["kl_mean"] < 1e-8 < found["transformers:bf16"]["kl_mean"]


def test_an_engine_is_asked_in_its_own_process(model: tuple[Source, LoadedModel]) -> None:
    class Numbers:
        """A tokenizer for 97 tokens."""

        eos_token_id = 2

        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            return [ord(letter) % 97 for letter in text[-40:]]

        def decode(self, tokens: list[int]) -> str:
            return " ".join(map(str, tokens))

    source, _ = model
    found, failed = quality.score_variants(["plain"], source, Numbers(), short(2))
    assert failed == {}
    assert {kind: one.asked for kind, one in found["plain"].items()} == {
        "sum": 2,
        "lookup": 2,
        "all": 4,
    }


def test_what_an_engine_tells_of_itself(model: tuple[Source, LoadedModel], tmp_path: Path) -> None:
    source, _ = model
    told: dict[str, Any] = {}
    for name in ("transformers", "transformers:bf16", "plain"):
        variant = quality.find([name])[0]
        options = client.load_options(variant, source, 1, 64, "cpu", "float32")
        with client.Worker.start(variant, 1) as worker:
            told[name] = worker.load(options, [1, 2, 3])
    assert told["transformers"].weights == "float32"
    assert told["transformers:bf16"].weights == "bfloat16"
    assert told["transformers"].same_weights
    assert not told["transformers:bf16"].same_weights
    assert told["transformers"].link.startswith("https://")
    assert "torch" in told["plain"].build
    halves = told["transformers"].weight_bytes / told["transformers:bf16"].weight_bytes
    assert halves == pytest.approx(2)
