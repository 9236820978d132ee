"""Drivers that serve many sequences, over fake engines (fakes/) and over our own tiny models."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from labkit.bench import client, worker
from labkit.bench.client import Worker, WorkerError
from labkit.bench.variants import Variant
from labkit.errors import LabkitError
from tests.bench.engines import DRIVERS, PROMPTS, driver_of, options_of, run
from tests.tiny import save_tiny_model

ENGINES = ["llama_cpp", "ik_llama_cpp", "ort", "ov"]
SAME_LENGTH = [[(7 * n + k * k) % 49 for k in range(5)] for n in range(40)]
OTHER_LENGTHS = [SAME_LENGTH[n][: 1 + n % 5] for n in range(40)]


def many(engine: Any, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """The tokens of each prompt."""
    tokens: list[list[int]] = [[] for _ in prompts]
    assert isinstance(engine.many(prompts, count, lambda n, token: tokens[n].append(token)), float)
    return tokens


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("streams", [1, 8])
def test_every_sequence_gets_what_its_prompt_gets_alone(
    name: str, streams: int, load: Callable[..., Any], toy: Any
) -> None:
    engine = load(name, streams=streams)
    for size in {1, streams // 2 + 1, streams}:
        for count in (1, 2, 7):
            prompts = SAME_LENGTH[size : 2 * size]
            right = [toy.continuation(prompt, count) for prompt in prompts]
            assert many(engine, prompts, count) == right
            alone = toy.continuation(PROMPTS[1], count)
            assert run(engine, toy, PROMPTS[1], count) == alone


@pytest.mark.parametrize("name", ["llama_cpp", "ik_llama_cpp", "ov"])
def test_prompts_may_have_several_lengths(name: str, load: Callable[..., Any], toy: Any) -> None:
    prompts = [*OTHER_LENGTHS[:6], PROMPTS[2]]
    right = [toy.continuation(prompt, 4) for prompt in prompts]
    assert many(load(name, streams=7), prompts, 4) == right


def test_a_padded_batch_is_refused(load: Callable[..., Any]) -> None:
    with pytest.raises(RuntimeError, match="prompts of one length"):
        many(load("ort", streams=3), OTHER_LENGTHS[:3], 2)


@pytest.mark.parametrize("name", ["llama_cpp", "ik_llama_cpp", "ov"])
def test_more_prompts_than_there_is_room_for_are_refused(
    name: str, load: Callable[..., Any]
) -> None:
    with pytest.raises(RuntimeError, match="3 prompts at once: th"):
        many(load(name, streams=2), SAME_LENGTH[:3], 2)


def test_a_draft_is_for_one_sequence(load: Callable[..., Any]) -> None:
    with pytest.raises(RuntimeError, match="has 2 sequences, and drafts for one alone"):
        many(load("llama_cpp", streams=2, lookup=2), SAME_LENGTH[:2], 2)


def test_llama_cpp_has_a_row_of_each_sequence_in_a_pass_and_room_for_all(
    load: Callable[..., Any], toy: Any
) -> None:
    engine = load("llama_cpp", streams=3, context=257)
    context = importlib.import_module("llama_api").CALLS["context"]
    assert (context.n_seq_max, context.n_ctx) == (3, 3 * 512)
    toy.EVENTS.clear()
    many(engine, [PROMPTS[2][:250], *SAME_LENGTH[:2]], 4)
    assert [count for kind, count in toy.EVENTS if kind == "rows"] == [260, 3, 3, 3]
    toy.EVENTS.clear()
    many(engine, [PROMPTS[2][:250]] * 3, 2)
    assert [count for kind, count in toy.EVENTS if kind == "rows"] == [512, 238, 3]


def test_sequences_beyond_the_batches_that_are_right_get_several_passes(
    load: Callable[..., Any], toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy, "WRONG_FROM", [32])
    prompts = [prompt[:2] for prompt in SAME_LENGTH]
    right = [toy.continuation(prompt, 3) for prompt in prompts]
    engine = load("ik_llama_cpp", streams=40)
    assert "More sequences than 31 get several passes. To see" in engine.check(PROMPTS[2][:40])
    toy.EVENTS.clear()
    assert many(engine, prompts, 3) == right
    assert [n for kind, n in toy.EVENTS if kind == "rows"] == [31, 31, 18, 20, 20, 20, 20]
    assert "several passes" not in load("ik_llama_cpp", streams=31).check(PROMPTS[2][:40])
    assert many(load("ik_llama_cpp", streams=40, check=False), prompts, 3) != right


def test_ik_llama_cpp_is_without_flash_attention_only_beside_other_sequences(
    load: Callable[..., Any],
) -> None:
    calls = importlib.import_module("llama_api").CALLS
    alone, several = load("ik_llama_cpp"), load("ik_llama_cpp", streams=2)
    assert not calls["context"].flash_attn
    assert several.check(PROMPTS[1]).startswith("With several sequences it runs without its flash")
    assert load("ik_llama_cpp", streams=2, check=False).check(PROMPTS[1]) is not None
    load("ik_llama_cpp")
    assert calls["context"].flash_attn
    assert alone.check(PROMPTS[1]) is None


def test_openvino_has_room_for_all_and_keeps_no_prompts(load: Callable[..., Any]) -> None:
    engine = load("ov", streams=5)
    pipeline = importlib.import_module("openvino_genai").LAST[0]
    assert type(pipeline).__name__ == "ContinuousBatchingPipeline"
    assert pipeline.device == "CPU"
    assert pipeline.properties["INFERENCE_NUM_THREADS"] == 3
    assert not pipeline.scheduler.enable_prefix_caching
    assert pipeline.scheduler.num_kv_blocks == 5 * 41  # of at least 16 positions, for 640 tokens
    many(engine, [PROMPTS[2]] * 5, 40)  # the fake refuses what it has no block for


# Our own


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("model")))


def ours(folder: str, kind: str, streams: int) -> Any:
    options = {
        "kind": kind, "gguf": None, "directory": folder, "model": folder, "file_format": None,
        "weights": "q8_0", "threads": 1, "context": 40, "streams": streams, "device": "cpu",
        "dtype": "float32",
    }  # fmt: skip
    return worker.load_driver(str(DRIVERS / "ours.py")).Engine(options)


@pytest.mark.parametrize("kind", ["plain", "fused", "engine", "transformers"])
def test_our_sequences_get_what_their_prompts_get_alone(kind: str, folder: str) -> None:
    engine = ours(folder, kind, 6)
    prompts = SAME_LENGTH[:6]
    alone = [many(engine, [prompt], 9)[0] for prompt in prompts]
    assert many(engine, prompts, 9) == alone
    assert many(engine, prompts[2:5], 9) == alone[2:5]
    tokens: list[int] = []
    engine.run(prompts[3], 9, tokens.append)
    assert tokens == alone[3]
    before = engine.logits(prompts[0])
    assert before.shape == (5, 49152)
    assert many(engine, prompts, 9) == alone  # judging leaves nothing behind


@pytest.mark.parametrize("kind", ["plain", "fused", "engine"])
def test_our_prompts_may_have_several_lengths(kind: str, folder: str) -> None:
    engine = ours(folder, kind, 6)
    prompts = OTHER_LENGTHS[:6]
    assert many(engine, prompts, 5) == [many(engine, [prompt], 5)[0] for prompt in prompts]


def test_the_engine_says_what_its_cache_takes(folder: str) -> None:
    halves = ours(folder, "fused", 3).kv_element_bytes
    assert halves == pytest.approx(2 * 48 / 40)  # 40 tokens lie in three blocks of 16
    assert ours(folder, "engine", 3).kv_element_bytes == pytest.approx(halves)


@pytest.mark.parametrize("kind", ["fused", "engine", "transformers"])
def test_what_our_variants_cannot_serve_is_refused(kind: str, folder: str) -> None:
    wrong = OTHER_LENGTHS[:2] if kind == "transformers" else [SAME_LENGTH[0], [10**6]]
    with pytest.raises(LabkitError, match=r"one length|must lie in"):
        many(ours(folder, kind, 2), wrong, 2)


# Through the worker


def started(name: str, folder: Path, **changes: Any) -> tuple[Worker, dict[str, Any]]:
    script = Path(client.__file__).with_name("worker.py")
    command = [sys.executable, "-P", str(script), str(driver_of(name))]
    one = Worker(Variant(name, "driver"), command, dict(os.environ))
    return one, options_of(name, folder, **changes)


def test_a_worker_answers_several_prompts_each_with_its_times(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "gguf_read_bytes", lambda path: 1234)
    one, options = started("llama_cpp", tmp_path, streams=3)
    with one:
        one.load(options, PROMPTS[1], timeout=60)
        found = one.many(SAME_LENGTH[:3], 5)
    assert [sample.tokens for sample in found] == [
        toy.continuation(prompt, 5) for prompt in SAME_LENGTH[:3]
    ]
    for sample in found:
        assert [sample.due, *sample.times] == sorted([sample.due, *sample.times])
    assert len({sample.due for sample in found}) == 1


def test_an_engine_for_one_prompt_at_a_time_says_so(toy: Any, tmp_path: Path) -> None:
    one, options = started("mnn", tmp_path)
    with one:
        one.load(options, PROMPTS[1], timeout=60)
        with pytest.raises(WorkerError, match="answers one prompt at a time"):
            one.many(SAME_LENGTH[:2], 2)
        assert one.run(PROMPTS[1], 2).tokens == toy.continuation(PROMPTS[1], 2)


DRIVER = """
import time

class Engine:
    weight_bytes, kv_element_bytes, version = 1000, 2, "1.0"
    weights, same_weights = "float32", True

    def __init__(self, options):
        pass

    def run(self, prompt, new_tokens, emit):
        return time.monotonic()

    def many(self, prompts, new_tokens, emit):
        due = time.monotonic()
        for number, prompt in enumerate(prompts):
            for token in range(new_tokens - number % 2):  # every second answer is short
                emit(number, token)
        return due
"""


def test_too_few_tokens_of_one_prompt_are_no_answer(tmp_path: Path) -> None:
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    script = Path(client.__file__).with_name("worker.py")
    one = Worker(Variant("short", "driver"), [sys.executable, "-P", str(script), str(driver)], {})
    with one:
        one.load({}, [1, 2], timeout=60)
        with pytest.raises(WorkerError, match="11 tokens came instead of 3 times 4"):
            one.many([[1], [2], [3]], 4)
