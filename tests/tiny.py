"""Random models small enough to run in milliseconds."""

from __future__ import annotations

from dataclasses import replace

import torch

from labkit.model.config import ModelConfig
from labkit.model.decoder import Decoder

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
