"""Tiny GGUF models that the kernel can serve, and the plain twin of its arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from gguf import GGMLQuantizationType
from torch import Tensor, nn

from labkit.model.config import config_from_dict
from labkit.model.decoder import Decoder
from labkit.model.gguf_file import hf_config, open_gguf, tensors
from labkit.model.rows import Rows
from tests.conftest import make_reference
from tests.model.test_gguf_file import gguf_weights, write_gguf

# Sizes that blocks of 32 divide; a vocabulary (97) that groups of 16 do not.
SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "head_dim": 16,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip


def tiny_gguf(path: Path, name: str, kind: str) -> Path:
    """A random model of a family (conftest.TINY) with its matrices in blocks of `kind`."""
    sizes = dict(SIZES)
    if name == "llama-mha":
        sizes["num_key_value_heads"] = 4
    reference = make_reference(name, **sizes)
    return write_gguf(path, reference, gguf_weights(reference), GGMLQuantizationType[kind])


class Int8Linear(nn.Linear):
    """A linear layer that sees its input as the kernel does: int8 in blocks of 32."""

    def forward(self, x: Tensor) -> Tensor:
        blocks = x.unflatten(-1, (-1, 32))
        scale = blocks.abs().amax(-1, keepdim=True) / 127
        rounded = torch.where(scale > 0, (blocks / scale).round(), 0) * scale
        return nn.functional.linear(rounded.flatten(-2), self.weight, self.bias)


def plain_twin(file: Path) -> Decoder:
    """The plain decoder over the file's exact values, with int8 inputs."""
    reader = open_gguf(file)
    raw = hf_config(reader, file)
    decoder = Decoder(config_from_dict(raw)).eval().requires_grad_(False)
    found = {
        name.removeprefix("model."): torch.from_numpy(v) for name, v in tensors(reader, raw, file)
    }
    decoder.load_state_dict(found, assign=True, strict=False)
    decoder.tie()
    for module in decoder.modules():
        if isinstance(module, nn.Linear):
            module.__class__ = Int8Linear
    return decoder


def logits(decoder: Any, ids: Sequence[int], chunk: int = 1000) -> Tensor:
    """Logits of every position, (tokens, vocab), read in passes of `chunk` rows."""
    cache = decoder.new_cache(1, len(ids))
    passes = (
        Rows.prefill(ids[start : start + chunk], start=start, all_logits=True)
        for start in range(0, len(ids), chunk)
    )
    return torch.cat([decoder(rows, cache) for rows in passes])
