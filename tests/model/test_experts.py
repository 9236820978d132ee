"""Mixtures of experts: routing as transformers routes, what is refused, and what a row reads."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from labkit.errors import LabkitError, ModelError
from labkit.limits.cost import weight_read_bytes
from labkit.model.experts import Experts, Router, read_experts
from labkit.model.load import load
from labkit.model.rows import Rows
from labkit.model.weights import read_bytes
from labkit.optimize.fused import load_fused
from labkit.optimize.graph_rewriting import capture_step, compile_step
from labkit.optimize.quantization import quantize
from labkit.optimize.speculative import Head, keep_layers
from tests.conftest import Tiny, make_reference
from tests.fused_helpers import SIZES
from tests.tiny import tiny_decoder

RAW: dict[str, Any] = {
    "num_experts": 8, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "norm_topk_prob": True,
}  # fmt: skip
EXPERTS = Experts(4, 2, 24, (0, 1), normalized=True)


def test_which_layers_have_a_mixture() -> None:
    def sparse(**more: object) -> tuple[int, ...]:
        found = read_experts(RAW | more, 6)
        return found.layers if found else ()

    assert sparse() == (0, 1, 2, 3, 4, 5)
    assert sparse(decoder_sparse_step=2) == (1, 3, 5)
    assert sparse(decoder_sparse_step=2, mlp_only_layers=[3]) == (1, 5)
    assert sparse(mlp_only_layers=list(range(6))) == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_experts": 0}, "num_experts must be a whole number from 1"),
        ({"num_experts": None}, "num_experts is missing"),
        ({"num_local_experts": 4}, "num_experts is 8, but num_local_experts is 4"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok is 9, but there are 8 experts"),
        ({"moe_intermediate_size": "32"}, "moe_intermediate_size must be a whole number"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step must be a whole number from 1"),
        ({"mlp_only_layers": [True]}, "mlp_only_layers must be a list of layer numbers"),
        ({"norm_topk_prob": 1}, "norm_topk_prob must be true or false"),
    ],
)
def test_numbers_that_cannot_be_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        read_experts(RAW | changes, 6)


@pytest.mark.parametrize("normalized", [True, False])
def test_a_router_by_hand_with_ties_to_the_lower_number(normalized: bool) -> None:
    router = Router(Experts(5, 3, 8, (0,), normalized), 2)
    router.weight.data = torch.tensor([[1.0, 0], [2, 0], [1, 0], [1, 0], [0, 1]])
    weights, chosen = router(torch.tensor([[1.0, 0.5]]))
    assert chosen.tolist() == [[1, 0, 2]]
    expected = torch.tensor([2.0, 1, 1]).exp()
    whole = expected.sum() if normalized else torch.tensor([1.0, 2, 1, 1, 0.5]).exp().sum()
    assert torch.allclose(weights[0], expected / whole)


def test_a_router_is_transformers_router_and_orders_ties(
    make_tiny: Callable[[str], Tiny],
) -> None:
    """Every two experts have one row of the router between them, and a row takes two: torch.topk
    takes the same pair, in any order. (It has no order of its own: of three equals it may take any
    two.)"""
    theirs = copy.deepcopy(make_tiny("qwen3-moe").reference.model.layers[0].mlp.gate)
    theirs.weight.data[1::2] = theirs.weight.data[::2]
    x = torch.randn(50, 48, generator=torch.Generator().manual_seed(3))
    ours = Router(Experts(6, 2, 32, (0,), normalized=True), 48)
    ours.weight.data = theirs.weight.data
    with torch.inference_mode():
        _, scores, numbers = theirs(x)
        weights, chosen = ours(x)
    assert torch.equal(chosen, numbers.sort(-1).values)
    assert torch.allclose(weights, scores)


def test_transformers_reads_what_we_loaded(make_tiny: Callable[[str], Tiny]) -> None:
    """The files hold the experts one by one, as those on the hub do."""
    tiny = make_tiny("qwen3-moe-some")
    names = set(load_file(tiny.model.directory / "model.safetensors"))
    assert "model.layers.2.mlp.experts.5.down_proj.weight" in names
    assert "model.layers.1.mlp.down_proj.weight" in names
    assert tiny.model.config.experts == Experts(6, 2, 32, (0, 2), normalized=False)


@pytest.mark.parametrize("name", ["qwen3-moe", "qwen3-moe-some"])
def test_a_row_reads_its_own_experts(make_tiny: Callable[[str], Tiny], name: str) -> None:
    tiny = make_tiny(name)
    expected = weight_read_bytes(tiny.model.config, 1)
    assert read_bytes(tiny.model.decoder) == expected
    assert read_bytes(tiny.reference) == expected
    held = sum(p.nbytes for p in tiny.model.decoder.parameters())
    assert expected < held - 4 * 3 * 48 * 32 * 4  # of one layer, four of six experts are left out


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    make_reference("qwen3-moe", **SIZES).save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def refused(directory: Path, words: str) -> None:
    for loader in (lambda: load(directory, "cpu"), lambda: load_fused(directory, "q8_0")):
        with pytest.raises(ModelError, match=words) as error:
            loader()
        assert "\n" not in str(error.value)


ONE = "model.layers.1.mlp.experts.3"
FILES: list[tuple[Callable[[dict[str, torch.Tensor]], object], str]] = [
    (lambda w: w.pop(f"{ONE}.up_proj.weight"), "lack 1 tensors, first layers.1.mlp.experts.3.up"),
    (lambda w: w.pop("model.layers.0.mlp.gate.weight"), "lack 1 tensors, first layers.0.mlp.gate"),
    (
        lambda w: w.update({"model.layers.1.mlp.experts.6.up_proj.weight": torch.ones(32, 64)}),
        "1 tensors are not the model's, first layers.1.mlp.experts.6",
    ),
    (
        lambda w: w.update({f"{ONE}.down_proj.weight": torch.ones(32, 64)}),
        r"experts.3.down_proj.weight has shape \(32, 64\), the config says \(64, 32\)",
    ),
    (
        lambda w: w.update({"model.layers.0.mlp.experts.gate_up_proj": torch.ones(6, 64, 64)}),
        "experts stacked in one tensor are not read",
    ),
]


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(("change", "words"), FILES)
def test_experts_that_are_not_the_configs(
    directory: Path, change: Callable[[dict[str, torch.Tensor]], object], words: str
) -> None:
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    refused(directory, words)


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"num_local_experts": 60_000, "num_experts": 60_000},
            "60,000 experts in each of 3 layers",
        ),
        ({"moe_intermediate_size": 64}, "has shape"),
        ({"mlp_only_layers": [0]}, "lack 3 tensors, first layers.0.mlp.down_proj"),
        ({"model_type": "qwen3"}, "lack 9 tensors, first layers.0.mlp.down_proj"),
    ],
)
def test_a_config_of_other_experts(directory: Path, changes: dict[str, object], words: str) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    refused(directory, words)


def test_what_is_made_for_dense_models_says_so_in_one_line() -> None:
    decoder = tiny_decoder(experts=EXPERTS)
    for ask in (
        lambda: quantize(decoder, "gptq", calibration=[[1, 2, 3]]),
        lambda: compile_step(decoder),
        lambda: Head(decoder.config, torch.arange(5)),
    ):
        with pytest.raises(LabkitError, match="mixture") as error:
            ask()
        assert "\n" not in str(error.value)
    with pytest.raises(LabkitError, match="NVIDIA GPU"):
        capture_step(decoder)


def test_a_model_that_keeps_some_layers_keeps_their_mixtures() -> None:
    config = tiny_decoder(experts=Experts(4, 2, 24, (1,))).config
    assert config.experts is not None
    assert config.experts.kept([1]) == Experts(4, 2, 24, (0,))
    assert config.experts.kept([0]) is None
    short = keep_layers(tiny_decoder(experts=Experts(4, 2, 24, (1,))), [1])
    assert read_bytes(short) == weight_read_bytes(short.config, 1)


@pytest.mark.parametrize("method", ["rtn", "symmetric"])
def test_a_quantized_mixture_counts_what_a_row_reads(method: str) -> None:
    decoder = tiny_decoder(experts=EXPERTS)
    found = quantize(decoder, method, 8, 24, head_bits=None)
    names = set(found.layers[0])
    assert "mlp.experts.3.up_proj" in names
    assert "mlp.gate" not in names
    logits = found(Rows.prefill([1, 2, 3]), found.new_cache(1, 4))
    assert torch.isfinite(logits).all()
    whole = sum(matrix.nbytes for layer in found.layers for matrix in layer.values())
    idle = sum(m.nbytes for layer in found.layers for n, m in layer.items() if ".experts." in n) / 2
    others = sum(
        p.nbytes for n, p in decoder.named_parameters() if "proj" not in n and "lm_head" not in n
    )
    assert found.weight_bytes == whole - idle + others
