"""The drivers of other engines, over fake engines that run a toy model (fakes/)."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labkit.bench import client, worker
from labkit.bench.client import Worker, WorkerError
from labkit.bench.variants import Variant
from tests.bench.engines import ENGINES, PROMPTS, driver_of, options_of, run

_ROUNDED = "rounded from the dequantized file"
WEIGHTS = {
    "llama_cpp": ("Q4_1 as in the file", True),
    "ik_llama_cpp": ("Q4_1 as in the file", True),
    "ort": (f"int4 of its own (blocks of 32, head too), {_ROUNDED}", False),
    "ov": (f"int4 of its own (groups of 64, head int8), {_ROUNDED}", False),
    "mnn": (f"int4 of its own (blocks of 64, head int4), {_ROUNDED}", False),
}


@pytest.mark.parametrize("name", ENGINES)
def test_tokens_are_the_models_and_earlier_prompts_are_forgotten(
    name: str, load: Callable[..., Any], toy: Any
) -> None:
    engine = load(name)
    for prompt in [*PROMPTS, *PROMPTS[::-1]]:
        for count in (1, 2, 9):
            assert run(engine, toy, prompt, count) == toy.continuation(prompt, count)
    assert engine.version == "0.7"


@pytest.mark.parametrize("name", ENGINES)
def test_logits_are_those_of_every_position(name: str, load: Callable[..., Any], toy: Any) -> None:
    engine = load(name)
    for prompt in [*PROMPTS, PROMPTS[1]]:
        run(engine, toy, PROMPTS[1], 3)  # which must leave nothing behind
        found = engine.logits(prompt)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, toy.logits(prompt))


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("llama_cpp", [0, 1, 2, 3, 4, 5]),
        ("ik_llama_cpp", [0, 1, 2, 3, 4, 5]),
        ("ort", [0, 0, 1, 2, 3, 4, 5]),  # the prompt alone gives no token yet
        ("ov", [0, 0, 1, 3, 4]),  # which computes by ones and twos
        ("mnn", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_each_token_is_emitted_once_and_before_more_is_computed(
    name: str, before: list[int], load: Callable[..., Any], toy: Any
) -> None:
    run(load(name), toy, PROMPTS[1], 6)
    emitted, found = 0, []
    for kind, _ in toy.EVENTS:
        emitted += kind == "emit"
        found += [] if kind == "emit" else [emitted]
    assert found == before
    assert emitted == 6


def test_llama_cpp_reads_prompts_in_batches_of_512(load: Callable[..., Any], toy: Any) -> None:
    for name in ("llama_cpp", "ik_llama_cpp"):
        run(load(name), toy, PROMPTS[2], 2)
        assert [e for e in toy.EVENTS if e[0] == "rows"] == [
            ("rows", 512),
            ("rows", 88),
            ("rows", 1),
        ]


def test_llama_cpp_gets_its_threads_its_room_and_no_gpu(load: Callable[..., Any], toy: Any) -> None:
    engine = load("llama_cpp", context=257)
    calls = importlib.import_module("llama_api").CALLS
    assert calls["file"].endswith("m.gguf")
    assert calls["n_gpu_layers"] == 0
    context = calls["context"]
    assert context.n_ctx == 512  # the next multiple of 256
    assert (context.n_threads, context.n_threads_batch) == (3, 3)
    assert (context.n_batch, context.n_ubatch) == (512, 512)
    assert engine.weights_file.endswith("m.gguf")


@pytest.mark.parametrize("lookup", [1, 2, 3])
def test_llama_cpps_own_drafts_leave_the_tokens_alone(
    lookup: int, load: Callable[..., Any], toy: Any
) -> None:
    engine = load("llama_cpp", lookup=lookup)
    for prompt in PROMPTS[:2]:
        for count in (1, 2, 8, 30):
            assert run(engine, toy, prompt, count) == toy.continuation(prompt, count)
            context = [*prompt, *toy.continuation(prompt, count - 1)]
            assert engine.context.held == context  # rejected drafts are taken back
    rows = [n for kind, n in toy.EVENTS if kind == "rows"]
    assert max(rows[1:]) == 1 + lookup
    assert len(rows) < 30


@pytest.mark.parametrize("name", ["llama_cpp", "ik_llama_cpp"])
def test_the_check_is_silent_where_batches_are_right(
    name: str, load: Callable[..., Any], toy: Any
) -> None:
    engine = load(name)
    assert engine.check(PROMPTS[2][:40]) is None
    assert engine.prompt_batch == 512


@pytest.mark.parametrize(("wrong_from", "batch"), [(32, 31), (9, 8), (2, 1)])
def test_the_check_finds_the_largest_batch_that_is_right(
    wrong_from: int, batch: int, load: Callable[..., Any], toy: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(toy, "WRONG_FROM", [wrong_from])
    engine = load("ik_llama_cpp")
    note = engine.check(PROMPTS[2][:40])
    assert f"0.7 reads prompts in batches of {batch}, because in batches of 512 its" in note
    assert "this prompt of 40 tokens then took" in note
    assert note.endswith("labkit.bench.quality ik_llama.cpp ik_llama.cpp:unchecked`")
    assert run(engine, toy, PROMPTS[2], 3) == toy.continuation(PROMPTS[2], 3)
    blind = load("ik_llama_cpp", check=False)
    assert blind.check(PROMPTS[2][:40]) is None
    assert run(blind, toy, PROMPTS[2], 3) != toy.continuation(PROMPTS[2], 3)


def test_llama_cpp_requantizes_once(load: Callable[..., Any], toy: Any, tmp_path: Path) -> None:
    engine = load("llama_cpp", format="q4_1")
    calls = importlib.import_module("llama_api").CALLS
    assert calls.pop("quantized") == (3, 3, True)  # threads, the number of the format, from any
    assert engine.weights == "Q4_1, requantized from the file's Q4_1"
    assert not engine.same_weights
    made = Path(engine.weights_file)
    assert made == tmp_path / "store" / "m.q4_1.gguf"
    assert made.read_text() == "all of it"
    load("llama_cpp", format="q4_1")
    assert "quantized" not in calls
    with pytest.raises(RuntimeError, match="could not make q8_0"):
        load("llama_cpp", format="q8_0", gguf="unreadable.gguf")
    assert [file.name for file in made.parent.iterdir()] == ["m.q4_1.gguf"]


def test_onnxruntime_gets_its_threads_its_room_and_no_early_end(
    load: Callable[..., Any], toy: Any
) -> None:
    engine = load("ort", context=77)
    model = importlib.import_module("onnxruntime_genai").LAST[0]
    assert model.values["eos_token_id"] == 49
    assert model.values["decoder"]["session_options"] == {"a": 1, "intra_op_num_threads": 3}
    assert engine.weight_bytes == 1234
    assert run(engine, toy, PROMPTS[1], 72) == toy.continuation(PROMPTS[1], 72)
    wanted = {"max_length": 77, "min_length": 77, "do_sample": False}
    assert model.generators[-1].search == wanted


def test_openvino_gets_its_threads_and_keeps_no_prompts(load: Callable[..., Any], toy: Any) -> None:
    engine = load("ov")
    pipeline = importlib.import_module("openvino_genai").LAST[0]
    assert pipeline.device == "CPU"
    assert pipeline.properties["INFERENCE_NUM_THREADS"] == 3
    assert not pipeline.scheduler.enable_prefix_caching
    assert engine.weight_bytes == 1234
    engine.logits(PROMPTS[1])
    compiled = importlib.import_module("openvino").COMPILED
    assert compiled["properties"]["INFERENCE_NUM_THREADS"] == 3
    assert compiled["path"].name == "openvino_model.xml"


def test_the_exact_number_of_tokens_comes_past_an_end_of_sequence(
    load: Callable[..., Any], toy: Any
) -> None:
    ending = next(p for n in range(50) if 7 in toy.continuation(p := [n, 5], 20))
    for name in ("ort", "ov"):
        assert run(load(name), toy, ending, 30) == toy.continuation(ending, 30)


# Through the worker


def started(name: str, folder: Path, **changes: Any) -> tuple[Worker, dict[str, Any]]:
    script = Path(client.__file__).with_name("worker.py")
    command = [sys.executable, "-P", str(script), str(driver_of(name))]
    one = Worker(Variant(name, "driver"), command, dict(os.environ))
    return one, options_of(name, folder, **changes)


@pytest.mark.parametrize("name", ENGINES)
def test_a_worker_answers_with_tokens_times_and_logits(
    name: str, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "gguf_read_bytes", lambda path: 1234)
    one, options = started(name, tmp_path)
    with one:
        loaded = one.load(options, PROMPTS[1], timeout=60)
        assert (loaded.version, loaded.weight_bytes, loaded.note) == ("0.7", 1234, None)
        assert (loaded.weights, loaded.same_weights) == WEIGHTS[name]
        assert loaded.build == ("uses AVX2, AMX_INT8" if name == "llama_cpp" else "")
        sample = one.run(PROMPTS[0], 5)
        assert sample.tokens == toy.continuation(PROMPTS[0], 5)
        assert [sample.due, *sample.times] == sorted([sample.due, *sample.times])
        np.testing.assert_array_equal(one.logits(PROMPTS[1]), toy.logits(PROMPTS[1]))


@pytest.mark.parametrize(
    ("name", "changes", "prompt", "said"),
    [
        (
            "llama_cpp",
            {"gguf": "broken.gguf"},
            [1],
            "RuntimeError: broken.gguf could not be",
        ),
        ("ik_llama_cpp", {"context": 256}, [1] * 300, "RuntimeError: llama_decode returned 1"),
        ("ort", {"context": 4}, [1] * 4, "RuntimeError: the generator is done"),
        ("ort", {"format": "int9", "directory": "unreadable"}, [1], "CalledProcessError: Command"),
    ],
)
def test_an_error_is_one_line(
    name: str, changes: dict[str, Any], prompt: list[int], said: str, toy: Any, tmp_path: Path
) -> None:
    session = worker.Session(str(driver_of(name)))
    options = options_of(name, tmp_path, **changes)
    answer = session.answer(json.dumps({"op": "load", "options": options, "prompt": prompt}))
    assert not answer["ok"]
    assert answer["error"].startswith(said)
    assert "\n" not in answer["error"]
    one, _ = started(name, tmp_path)
    with one, pytest.raises(WorkerError, match=said):
        one.load(options, prompt, timeout=60)
