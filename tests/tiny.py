"""Random models small enough to run in milliseconds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from labkit.model.config import ModelConfig
from labkit.model.decoder import Decoder
from labkit.model.rows import Part

CONFIG = ModelConfig(
    family="llama",
    vocab_size=97,
    hidden_size=48,
    intermediate_size=80,
    layers=2,
    heads=6,
    kv_heads=2,
    head_dim=8,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    max_positions=256,
    tied_head=True,
)


def tiny_decoder(seed: int = 0, **changes: object) -> Decoder:
    """A random decoder of a small shape; `changes` replace fields of its config."""
    torch.manual_seed(seed)
    decoder = Decoder(replace(CONFIG, **changes))
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return decoder.eval().requires_grad_(False)


def whole(
    slot: int, start: int, tokens: Sequence[int], parents: Sequence[int] = (), **more: Any
) -> Part:
    """A part whose rows are all asked for."""
    return Part(slot, start, tokens, len(tokens), parents, **more)


def save_tiny_model(folder: Path, seed: int = 0) -> Path:
    """A random Llama of 64 dimensions with the real tokenizer, as a model directory; of sizes that
    the fused decoder serves.
    """

    from safetensors.torch import save_file

    from labkit.model.load import locate_described

    decoder = tiny_decoder(
        seed, vocab_size=49152, hidden_size=64, intermediate_size=96, heads=4, head_dim=16,
        max_positions=512,
    )  # fmt: skip
    weights = {
        f"model.{name}": tensor.contiguous()
        for name, tensor in decoder.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = decoder.config
    raw = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
    }
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    _, real, _ = locate_described()
    for file in real.glob("*token*"):
        shutil.copy(file, folder)
    return folder
