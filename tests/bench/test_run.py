"""`labkit bench` on a tiny model: the table, the samples, and refusals."""

import json

import pytest

from labkit.bench import run as bench
from labkit.bench.drivers.ours import Engine
from labkit.errors import LabkitError
from tests.fused_helpers import tiny_gguf
from tests.tiny import save_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("model")))


def test_a_table_with_a_row_a_variant_and_the_control(model, tmp_path):
    target = tmp_path / "bench.json"
    text = bench.run("transformers,plain", 12, 4, 5, model, target)
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["variant", "decode"]
    assert [line.split("  ")[0] for line in lines[1:4]] == [
        "transformers",
        "plain",
        "transformers (again)",
    ]
    stored = json.loads(target.read_text())["comparison"]
    assert len(stored["rounds"]["plain"]) == 5
    assert [t["tokens"] for t in stored["rounds"]["plain"]] == [
        t["tokens"] for t in stored["rounds"]["transformers"]
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"variants": "plian"}, "no variant 'plian'(.|\\n)*plain"),
        ({"variants": ""}, "no variant named"),
        ({"variants": "plain,plain"}, "named twice"),
        ({"rounds": 2}, "too few"),
        ({"prompt_tokens": 511}, "context"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_timed(changes, words, model):
    asked = {"variants": "plain", "prompt_tokens": 8, "new_tokens": 4, "rounds": 5, "model": model}
    with pytest.raises(LabkitError, match=words):
        bench.run(**asked | changes)


def test_a_bare_read_has_a_limit_but_no_prefill():
    lines = bench.run("bare-read", 8, 2, 5).splitlines()
    read, (again, *_) = lines[1].split(), lines[2].split()
    assert read[0] == again == "bare-read"
    assert read[-2].endswith("%")
    assert read[-1] == "–"


def test_a_bare_read_reads_what_the_fused_decoder_does(tmp_path):
    file = tiny_gguf(tmp_path / "tiny.gguf", "llama", "Q4_1")
    shared = {"gguf": str(file), "directory": None, "weights": "as-is", "threads": 1, "context": 20}
    engine = Engine(shared | {"kind": "read"})
    fused = Engine(shared | {"kind": "fused", "screened": False})
    assert engine.weight_bytes == fused.weight_bytes
    assert engine.kv_element_bytes == 2
    tokens: list[int] = []
    engine.run([1, 2, 3], 4, tokens.append)
    assert len(tokens) == 4
    with pytest.raises(NotImplementedError, match="no logits"):
        engine.logits([1])
