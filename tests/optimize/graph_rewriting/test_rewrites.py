"""Every rewrite against the decoder it came from."""

import contextlib
import math
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.exc import TorchRuntimeError

from labkit.engine.generate import generate
from labkit.errors import DeviceError
from labkit.model.experts import Experts
from labkit.model.load import load
from labkit.model.rows import Rows
from labkit.optimize import graph_rewriting as rewriting
from labkit.optimize.graph_rewriting import static
from labkit.studies.operations import count_operations
from labkit.workload.prompts import prompt_ids
from tests.tiny import tiny_decoder

FAMILIES: dict[str, dict[str, object]] = {
    "llama": {},
    "untied": {"tied_head": False},
    "biases": {"attention_bias": True, "output_bias": True, "mlp_bias": True},
    "qwen3": {"family": "qwen3", "qk_norm": True},
    "window": {"sliding_window": 6},
    "norms on both sides": {
        "post_norms": True, "qk_norm": True, "activation": "gelu_tanh", "sliding_window": 6,
        "windowed": (True, False), "local_rope_theta": 100.0, "embedding_multiplier": 7.0,
    },
    "norms of results": {
        "pre_norms": False, "post_norms": True, "qk_norm": True, "qk_norm_whole": True,
    },
    "multipliers": {
        "embedding_multiplier": 3.0, "residual_multiplier": 0.4, "attention_multiplier": 0.2,
        "logits_divisor": 3.0,
    },
    "half turned": {"rope_dim": 4, "rotated": (True, False)},
    "experts": {"experts": Experts(4, 2, 24, (1,), normalized=True)},
}  # fmt: skip
REWRITES = {
    "merged": rewriting.merge_projections,
    "folded": rewriting.fold_norms,
    "tabled": rewriting.tabulate_rope,
    "static": rewriting.StaticShapes,
    "all": lambda d: rewriting.StaticShapes(
        rewriting.tabulate_rope(rewriting.fold_norms(rewriting.merge_projections(d)))
    ),
}
IDS = [5, 3, 8, 1, 9, 2, 7, 4, 6, 11, 13]


def logits_of(decoder, ids=IDS):
    """A prefill, then one row after another: (tokens, vocab)."""
    cache = decoder.new_cache(1, 32)
    parts = [decoder(Rows.prefill(ids[:5], all_logits=True), cache)]
    parts += [decoder(Rows.decode({0: (ids[i], i)}), cache) for i in range(5, len(ids))]
    return torch.cat(parts)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rewrite", REWRITES)
def test_the_same_logits(family, rewrite):
    decoder = tiny_decoder(**FAMILIES[family])
    for norm in (m for m in decoder.modules() if type(m).__name__ == "RMSNorm"):
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
    expected = logits_of(decoder)
    found = logits_of(REWRITES[rewrite](decoder))
    assert torch.allclose(expected, found, atol=1e-4), (expected - found).abs().max()


def test_the_decoder_it_came_from_stays_as_it_was():
    decoder = tiny_decoder()
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    expected = logits_of(decoder)
    for rewrite in REWRITES.values():
        rewrite(decoder)
    after = decoder.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(logits_of(decoder), expected)


def test_what_is_left_alone_is_shared():
    decoder = tiny_decoder()
    merged = rewriting.merge_projections(decoder)
    assert merged.embed_tokens.weight.data_ptr() == decoder.embed_tokens.weight.data_ptr()
    assert merged.layers[0].mlp.down_proj.weight is decoder.layers[0].mlp.down_proj.weight


@pytest.mark.parametrize("rewrite", ["merged", "folded", "tabled"])
def test_fewer_operations(rewrite):
    decoder = tiny_decoder()

    def operations(made):
        cache = made.new_cache(1, 8)
        return count_operations(lambda: made(Rows.decode({0: (1, 0)}), cache))

    assert operations(REWRITES[rewrite](decoder)) < operations(decoder)


def test_static_shapes_keep_slots_apart_and_a_full_cache_raises():
    decoder = tiny_decoder()
    static = rewriting.StaticShapes(decoder)
    cache = static.new_cache(2, 4)
    for i in range(4):
        static(Rows.decode({0: (i + 1, i)}), cache)
    assert cache.length(1) == 0
    with pytest.raises(Exception, match="room for 4"):
        static(Rows.decode({0: (1, 4)}), cache)


def test_without_a_compiler_it_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(static.shutil, "which", lambda name: None)
    with pytest.raises(rewriting.CompilerError, match=r"install g\+\+ or clang"):
        rewriting.compile_step(tiny_decoder())


def test_a_compiler_that_cannot_build_is_told_not_thrown():
    def broken(*_):
        raise TorchRuntimeError("Python.h: no such file\nmore")

    compiled = rewriting.StaticShapes(tiny_decoder())
    compiled.step = broken
    with pytest.raises(rewriting.CompilerError, match=r"could not build the step: Python.h"):
        rewriting.first_step_seconds(compiled, 8)


def test_a_cuda_graph_is_refused_where_there_is_no_gpu():
    with pytest.raises(DeviceError, match="need an NVIDIA GPU, and this model is on cpu"):
        rewriting.capture_step(tiny_decoder())


class FakeCuda:
    """torch.cuda as far as a capture goes: a graph remembers what ran in its capture."""

    captures = 0

    def install(self, monkeypatch, made):
        current = SimpleNamespace(wait_stream=lambda _: None)
        monkeypatch.setattr(torch.cuda, "Stream", lambda: current)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: current)
        monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=made.replay))
        monkeypatch.setattr(torch.cuda, "graph", self.capture)

    @contextlib.contextmanager
    def capture(self, graph):
        self.captures += 1
        yield


class Replayed(rewriting.CapturedStep):
    """Replays by running the step on the tensors of the capture, as a graph would."""

    def _capture(self, token, position, keys, values):
        self.caught = keys, values
        super()._capture(token, position, keys, values)

    def replay(self):
        self._logits.copy_(self._step(self._token, self._position, *self.caught))


def test_a_captured_step_replays_with_new_tokens_and_captures_another_cache(monkeypatch):
    decoder, cuda = tiny_decoder(), FakeCuda()
    captured = rewriting.StaticShapes(decoder)
    captured.step = Replayed(captured._step)
    cuda.install(monkeypatch, captured.step)
    expected = logits_of(decoder)
    assert torch.allclose(logits_of(captured), expected, atol=1e-4)
    assert cuda.captures == 1
    cache = captured.new_cache(1, 64)
    captured(Rows.decode({0: (5, 0)}), cache)
    assert cuda.captures == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_cuda_graph_gives_the_same_logits():
    decoder = tiny_decoder().to("cuda")
    expected = logits_of(decoder)
    assert torch.allclose(logits_of(rewriting.capture_step(decoder)), expected, atol=1e-3)


def test_payback():
    assert rewriting.payback_tokens(10.0, 0.06, 0.04) == pytest.approx(500)
    assert rewriting.payback_tokens(10.0, 0.04, 0.06) == math.inf


@pytest.mark.model
def test_the_real_model_gives_the_same_tokens():
    model = load(device="cpu")
    prompt = prompt_ids(model.tokenizer, 24)
    expected = list(generate(model.decoder, prompt, 12))
    assert list(generate(REWRITES["all"](model.decoder), prompt, 12)) == expected
