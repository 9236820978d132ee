"""Which decoder answers, and the one line that says what falls back; the costs that are kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import labkit
from labkit.base.paths import project_root
from labkit.engine.generate import generate
from labkit.errors import LabkitError, ParameterError
from labkit.fast import chosen as module
from labkit.fast import costs
from labkit.fast.chosen import choose
from labkit.fast.session import fastest
from labkit.model.decoder import Decoder
from labkit.model.load import load
from labkit.optimize.fused import FusedDecoder, FusedError
from labkit.report.runs.reach import reached
from tests.conftest import Tiny
from tests.fast import told
from tests.tiny import save_tiny_model, tiny_decoder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A directory whose sizes the fused decoder serves."""
    return str(save_tiny_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def said() -> list[str]:
    return []


def test_the_built_in_model_gets_the_fused_decoder_with_the_blocks_of_its_file(
    said: list[str],
) -> None:
    found = choose(None, "cpu", 1, "", said.append)
    assert isinstance(found.decoder, FusedDecoder)
    assert (found.threads, found.products, found.torch_threads) == (1, "int8", None)
    assert found.name == f"fused decoder ({' and '.join(found.decoder.formats)})"
    assert not [line for line in said if "Compiling" not in line]


def test_a_directory_is_rounded_and_that_is_told(model: str, said: list[str]) -> None:
    found = choose(model, "cpu", 1, "", said.append)
    assert isinstance(found.decoder, FusedDecoder)
    assert found.decoder.formats == ["q8_0"]
    (line,) = [line for line in said if "Compiling" not in line]
    assert "are rounded to Q8_0, which may change answers" in line
    said.clear()
    assert choose(model, "cpu", 1, "q4_0", said.append).name == "fused decoder (q4_0 and q8_0)"
    assert said == []


def test_weights_of_a_dtype_are_those_of_the_plain_decoder(model: str, said: list[str]) -> None:
    found = choose(model, "cpu", 1, "bfloat16", said.append)
    assert isinstance(found.decoder, Decoder)
    assert (found.name, found.dtype, found.products) == (
        "plain decoder (bfloat16)", "bfloat16", "",
    )  # fmt: skip
    assert (found.torch_threads, said) == (1, [])


def answers(fast: Any, decoder: Any, prompt: list[int], count: int = 24) -> None:
    """It gives the tokens of plain decoding."""
    stream = fast.stream(prompt, count)
    stream.read()
    plain = generate(decoder, prompt, count, stop_ids=decoder.config.eos_ids)
    assert list(stream.result.tokens) == list(plain)


def test_without_a_compiler_the_plain_decoder_answers_and_one_line_says_so(
    model: str, said: list[str], monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    native = module.native
    native.library.cache_clear()
    try:
        fast = fastest(model, device="cpu", threads=1, drafts=False, tell=said.append)
    finally:
        native.library.cache_clear()
    (line,) = said
    assert line.startswith("The plain decoder answers, which is slower: ")
    assert "needs a C++ compiler" in line
    assert "\n" not in line
    answers(fast, load(model, "cpu").decoder, [5, 9, 13, 5, 9, 13, 5])


def test_a_compiler_that_breaks_is_told_by_its_first_line(
    model: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise FusedError("the kernel could not be compiled by c++ (code 1). It said:\nmuch\nmore")

    monkeypatch.setattr(module, "load_fused", broken)
    monkeypatch.setattr(module.native, "is_built", lambda: True)
    found = choose(model, "cpu", 1, "", said.append)
    assert isinstance(found.decoder, Decoder)
    assert said == [
        "The plain decoder answers, which is slower: the kernel could not be compiled by c++ "
        "(code 1). It said."
    ]
    with pytest.raises(FusedError):  # blocks that were asked for by name
        choose(model, "cpu", 1, "q8_0", said.append)


def test_sizes_that_the_kernel_does_not_serve_fall_back(llama: Tiny, said: list[str]) -> None:
    folder = llama.model.directory

    class Named(told.Letters):
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "tokenizer_of", lambda _: Named())
        patch.setattr("labkit.model.load.tokenizer_of", lambda _: Named())
        fast = fastest(folder, device="cpu", threads=1, tell=said.append)
    (line, *others) = said
    assert "The plain decoder answers" in line
    assert all("Measuring what drafts cost" in other for other in others)
    answers(fast, llama.model.decoder, [5, 9, 13, 5, 9, 13, 5])


def test_on_a_gpu_the_plain_decoder_answers_and_one_line_says_so(
    model: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = torch.device("cuda:0")
    monkeypatch.setattr(module, "resolve_device", lambda _: gpu)
    monkeypatch.setattr(module, "device_name", lambda _: "Some GPU")
    monkeypatch.setattr(module, "load", lambda name, _, dtype: load(name, "cpu", dtype))
    found = choose(model, "auto", None, "", said.append)
    assert said == ["The plain decoder answers on Some GPU: the fused one needs a CPU."]
    assert (found.device, found.torch_threads) == (gpu, None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"threads": 0}, "at least 1"),
        ({"threads": 10**6}, "at most"),
        ({"weights": "q3"}, "weights 'q3': allowed are as-is, q8_0"),
        ({"weights": 3}, "weights 3: allowed"),
        ({"device": "tpu"}, "allowed: auto"),
        ({"model": "no-such-file.gguf"}, "no model|no such|neither"),
        ({"context": 1}, "at least 2"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], words: str, said: list[str]) -> None:
    with pytest.raises(LabkitError, match=words):
        fastest(**{"device": "cpu", "drafts": False, "tell": said.append} | given)


def test_a_damaged_file_is_an_error_and_no_reason_to_fall_back(
    tmp_path: Path, said: list[str]
) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(LabkitError):
        fastest(tmp_path / "a.gguf", device="cpu", tell=said.append)


# What rows cost


def tiny(**more: Any) -> Any:
    return told.chosen(tiny_decoder(**more))


@pytest.mark.usefixtures("own_cache")
def test_costs_are_measured_once_and_that_is_told(said: list[str]) -> None:
    first = costs.kept_costs(tiny(), said.append)
    assert first is not None
    assert first.most == 16
    assert len(said) == 1
    assert "Measuring what drafts cost on this machine once" in said[0]
    assert costs.kept_costs(tiny(), said.append) == first
    assert len(said) == 1
    costs.kept_costs(tiny(layers=3), said.append)  # another model
    costs.kept_costs(told.chosen(tiny_decoder(), threads=2), said.append)
    assert len(said) == 3


DAMAGED = (
    "", "{", "[]", "null", '{"seconds": 1}', '{"seconds": 1, "relative": [1], "context": 0}',
    '{"seconds": 0, "relative": [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1], "context": 0}',
    '{"seconds": 1, "relative": [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,-1], "context": 0}',
    '{"seconds": 1, "relative": [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,null], "context": 0}',
    '{"seconds": 1, "relative": [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,"1"], "context": 0}',
    '{"seconds": "1", "relative": [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1], "context": 0}',
)  # fmt: skip


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_file_of_costs_is_not_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    assert costs._read(path) is None
    assert costs._read(tmp_path / "none.json") is None


def test_a_sound_file_of_costs_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"seconds": 2, "relative": [1.0] * 16, "context": 0}))
    assert costs._read(path) is not None


def test_a_context_too_short_for_drafts_has_none(said: list[str]) -> None:
    assert costs.kept_costs(tiny(max_positions=48), said.append) is None
    assert said == ["No drafts: the model's context is below 64 tokens."]


# The package


def test_importing_labkit_imports_nothing_else() -> None:
    code = "import sys, labkit; print(sorted({'torch', 'numpy', 'labkit.fast'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_labkit_has_both_calls_by_name() -> None:
    from labkit.bench.beside import compare

    assert labkit.fastest is fastest
    assert labkit.compare is compare
    assert {"fastest", "compare"} <= set(dir(labkit))
    with pytest.raises(AttributeError, match="no attribute 'slowest'"):
        _ = labkit.slowest


def test_code_that_only_imports_labkit_reaches_neither() -> None:
    package = project_root() / "labkit"
    assert {path.name for path in reached("import labkit", package)} == {"__init__.py"}


def test_an_unknown_dtype_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(ParameterError, match="float32, bfloat16, float16"):
        choose(None, "cpu", 1, "float8", print)
