"""A learned draft head: the target's last stream and the next token, through one decoder layer.

EAGLE (Li et al., 2401.15077): the next stream (the feature) is easier to predict than the next
token, and the target's own head turns it into a token. Each input has a norm of its own
(DeepSeek-V3, 2412.19437, section 2.2). The head keeps only the rows of frequent tokens: with the
full vocabulary they would be most of its cost (FR-Spec, Zhao et al., 2502.14856).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.base.paths import atomic_write
from labkit.errors import ModelError
from labkit.model.attention import RMSNorm
from labkit.model.config import ModelConfig
from labkit.model.decoder import Decoder, Layer, divided


def check_dense(config: ModelConfig) -> None:
    """ModelError for a mixture of experts: heads have no router."""
    if config.experts:
        raise ModelError(
            "a draft head is made for dense models only, not for mixtures of experts: choose "
            "another draft."
        )


class Head(nn.Module):
    """The head in PyTorch: the one that is trained, and the reference for the fused one.

    config: the target's; the head's own has one layer. ids (words,) int64: the tokens that it can
    draft, in the order of its logits. Raises ModelError for a mixture of experts.
    """

    ids: Tensor

    def __init__(self, config: ModelConfig, ids: Tensor) -> None:
        super().__init__()
        check_dense(config)
        hidden = config.hidden_size
        self.config = config.with_layers([config.layers - 1])
        self.token_norm = RMSNorm(hidden, config.rms_norm_eps)
        self.feature_norm = RMSNorm(hidden, config.rms_norm_eps)
        self.fuse = nn.Linear(2 * hidden, hidden, bias=False)
        self.layer = Layer(self.config, 0)
        self.norm = RMSNorm(hidden, config.rms_norm_eps)
        self.words = nn.Parameter(torch.zeros(len(ids), hidden), requires_grad=False)
        self.register_buffer("ids", ids)

    @staticmethod
    def of(target: Decoder, ids: Tensor) -> Head:
        """A head before training: the target's last layer, which reads the feature almost alone."""
        head = Head(target.config, ids)
        with torch.no_grad():
            head.layer.load_state_dict(target.layers[-1].state_dict())
            head.norm.load_state_dict(target.norm.state_dict())
            head.feature_norm.load_state_dict(target.norm.state_dict())
            hidden = target.config.hidden_size
            head.fuse.weight.normal_(std=0.02).add_(
                torch.cat((torch.zeros(hidden, hidden), torch.eye(hidden)), dim=1)
            )
            head.words.copy_(target.lm_head.weight[ids])
        return head

    def streams(self, embedded: Tensor, features: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        """The predicted streams of whole texts; inputs and result are (texts, length, hidden).

        Position i has the feature of token i and the embedding of token i + 1; its result is the
        feature of token i + 1. rope: as Decoder.rope gives it.
        """
        texts, length, hidden = features.shape
        both = torch.cat((self.token_norm(embedded), self.feature_norm(features)), dim=-1)
        x = self.fuse(both)
        attention = self.layer.self_attn
        rows = self.layer.input_layernorm(x).view(-1, hidden)
        cos, sin = (part.repeat(texts, 1, 1) for part in rope)
        queries, keys, values = (
            part.view(texts, length, -1, self.config.head_dim).transpose(1, 2)
            for part in attention.project(rows, cos, sin)
        )
        mixed = F.scaled_dot_product_attention(
            queries, keys, values, is_causal=True, enable_gqa=True,
            scale=self.config.attention_multiplier,
        )  # fmt: skip
        attended = attention.o_proj(mixed.transpose(1, 2).reshape(texts, length, -1))
        out: Tensor = self.layer.after_attention(x, attended)
        return out

    def logits(self, streams: Tensor) -> Tensor:
        """Logits over `ids` of streams (..., hidden)."""
        return divided(F.linear(self.norm(streams), self.words), self.config)


def save_head(head: Head, path: Path, recipe: dict[str, Any]) -> None:
    """Write the weights as safetensors, with the recipe in the file's metadata."""
    from safetensors.torch import save

    # `words` is left out: it is rows of the target's head, and loading copies them from there.
    tensors = {k: v.contiguous() for k, v in head.state_dict().items() if k != "words"}
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, save(tensors, metadata={"recipe": json.dumps(recipe)}))


def load_head(target: Decoder, path: Path) -> tuple[Head, dict[str, Any]]:
    """A trained head and its recipe.

    ModelError where the file is damaged, or belongs to another model.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            recipe = json.loads((file.metadata() or {}).get("recipe", "{}"))
        head = Head.of(target, tensors["ids"])
        head.load_state_dict(tensors | {"words": head.words})
    except (OSError, SafetensorError, KeyError, IndexError, RuntimeError, ValueError) as error:
        raise ModelError(f"{path} is no draft head of this model: {error}") from error
    return head.eval(), recipe
