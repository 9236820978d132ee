"""Tiny random models of every family, made by transformers; and the real model.

transformers is the judge: its models make the weights, save them as safetensors, and say what the
logits must be.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: no test needs a network

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from labkit.limits import measure
from labkit.model.load import LoadedModel, load


def pytest_configure(config: pytest.Config) -> None:
    """Keep what tests make apart from the user's, and know the machine before they run.

    Beside each other they cannot measure it. What other work has of the cores meanwhile is not
    counted: tests need any measurement that is kept, not a good one.
    """
    if not hasattr(config, "workerinput"):  # a worker of xdist's has it, and our environment
        os.environ.setdefault("LABKIT_CACHE", str(config.cache.mkdir("labkit")))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(measure, "_watched", measure._measure)
            measure.measure_hardware(seconds=0.05)


# 4 query heads share 2 KV heads; no two sizes are equal, so that a mix-up cannot pass unseen.
SHAPE: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": 128, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
    "attn_implementation": "eager", "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
# Layers 0 and 1 have a window, layer 2 has none.
GEMMA3: dict[str, Any] = {
    "sliding_window": 8, "sliding_window_pattern": 3, "query_pre_attn_scalar": 16,
    "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": True,
    "rope_theta": 50000.0, "rope_local_base_freq": 1000.0,
}  # fmt: skip
STRETCHED = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 50000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
}
LONGROPE: dict[str, Any] = {
    "num_attention_heads": 3, "num_key_value_heads": 1,  # of 16, as transformers counts the factors
    "original_max_position_embeddings": 400,
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
        "attention_factor": 1.2, "short_factor": [1.0, 1.2, 1.5, 2.0, 2.5, 3.0],
        "long_factor": [1.0, 2.0, 4.0, 8.0, 16.0, 30.0],
    },
}  # fmt: skip
GRANITE = {
    "embedding_multiplier": 6.0,
    "residual_multiplier": 0.4,
    "attention_multiplier": 0.2,
    "logits_scaling": 3.0,
}
MIXTURE = {
    "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True,
}  # fmt: skip
# name -> (transformers' prefix of its config and model class, what differs from SHAPE)
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-mha": ("Llama", {"num_key_value_heads": 4}),
    "llama-wide-heads": ("Llama", {"head_dim": 32, "rms_norm_eps": 1e-2}),
    "llama-rope-linear": (
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0}},
    ),
    "llama-rope-llama3": ("Llama", {"rope_parameters": LLAMA3}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral-window": ("Mistral", {"sliding_window": 8}),
    "qwen2": ("Qwen2", {}),
    "qwen2-tied": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0},
    ),
    "qwen3": ("Qwen3", {}),
    "qwen3-biases-tied": ("Qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
    "qwen3-window-above": (
        "Qwen3",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    "gemma3": ("Gemma3", GEMMA3),
    "gemma3-stretched": (
        "Gemma3",
        GEMMA3
        | {
            "sliding_window_pattern": 2, "query_pre_attn_scalar": 24, "attention_bias": True,
            "rope_parameters": STRETCHED, "tie_word_embeddings": False,
        },
    ),
    "phi3": ("Phi3", {"sliding_window": None}),
    "phi3-window": ("Phi3", {"sliding_window": 8}),
    "phi4-mini": ("Phi3", LONGROPE | {"tie_word_embeddings": True}),
    "smollm3": ("SmolLM3", {"num_hidden_layers": 4, "tie_word_embeddings": True}),
    "smollm3-window": (
        "SmolLM3",
        {
            "no_rope_layer_interval": 2, "use_sliding_window": True, "sliding_window": 8,
            "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False,
        },
    ),
    "olmo2": ("Olmo2", {}),
    "olmo2-biases-tied": ("Olmo2", {"attention_bias": True, "tie_word_embeddings": True}),
    "granite": ("Granite", GRANITE),
    "granite-biases-tied": (  # a larger multiplier and a tied head repeat one token for ever
        "Granite",
        GRANITE | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True,
                   "embedding_multiplier": 1.5},
    ),
    "qwen3-moe": ("Qwen3Moe", MIXTURE),
    "qwen3-moe-some": (  # a mixture in two of the three layers
        "Qwen3Moe",
        MIXTURE | {"norm_topk_prob": False, "mlp_only_layers": [1], "tie_word_embeddings": True,
                   "attention_bias": True},
    ),
}  # fmt: skip


class Tiny(NamedTuple):
    """A transformers model, and ours loaded from the directory it was saved to."""

    reference: Any
    model: LoadedModel

    def logits(self, ids: list[int], mask: torch.Tensor | None = None) -> torch.Tensor:
        """transformers' logits of every position; mask (tokens, tokens) bool replaces its own."""
        more = {}
        if mask is not None:
            shut = torch.finfo(torch.float32).min
            more = {"attention_mask": torch.where(mask, 0.0, shut)[None, None]}
        with torch.inference_mode():
            return self.reference(torch.tensor([ids]), **more).logits[0]


def make_reference(name: str, **changes: Any) -> Any:
    """A random transformers model in which every parameter, biases and norms too, matters."""
    import transformers

    prefix, differs = TINY[name]
    own = {"Gemma3": "Gemma3Text"}.get(prefix, prefix)  # its other config has images too
    config = getattr(transformers, f"{own}Config")(**SHAPE | differs | changes)
    torch.manual_seed(1234)
    reference = getattr(transformers, f"{prefix}ForCausalLM")(config).eval().float()
    with torch.no_grad():
        for parameter in reference.parameters():
            if parameter.dim() == 1:  # transformers makes norms ones and biases zeros
                parameter.add_(torch.randn_like(parameter) * 0.2)
            else:  # larger than its 0.02, so that attention is far from uniform
                parameter.mul_(6)
    return reference


@pytest.fixture(scope="session")
def make_tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    """Make (once) the tiny model of a name in TINY."""
    made: dict[str, Tiny] = {}

    def make(name: str) -> Tiny:
        if name not in made:
            directory = tmp_path_factory.mktemp(name)
            reference = make_reference(name)
            reference.save_pretrained(directory)
            made[name] = Tiny(reference, load(directory, "cpu"))
        return made[name]

    return make


@pytest.fixture(scope="session", params=list(TINY))
def tiny(request: pytest.FixtureRequest, make_tiny: Callable[[str], Tiny]) -> Tiny:
    """Each tiny model in turn."""
    return make_tiny(request.param)


@pytest.fixture(scope="session")
def llama(make_tiny: Callable[[str], Tiny]) -> Tiny:
    """The plainest tiny model, for what does not depend on the family."""
    return make_tiny("llama")


@pytest.fixture(scope="session")
def real_model() -> LoadedModel:
    """The default model in float32 on the CPU; its package missing is an error, not a skip."""
    return load(None, "cpu", "float32")


@pytest.fixture(scope="session")
def real_reference(real_model: LoadedModel) -> Any:
    """transformers' own model of the same directory."""
    from labkit.model.reference import load_reference

    return load_reference(real_model)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the user's, for what labkit keeps."""
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"
