"""Rewrites of the graph: the same mathematics in fewer, or better, operations.

Each function leaves the decoder it takes as it is, and returns another with the same forward
contract. Weights that a rewrite does not change are shared, not copied. TensorRT-LLM and
torch.compile rewrite the whole graph at once; here each rewrite can be measured alone, and several
can be combined.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.model.attention import Attention, RMSNorm
from labkit.model.decoder import Decoder, SwiGLU
from labkit.model.experts import Mixture


def shared_copy(decoder: Decoder) -> Decoder:
    """A copy of the modules around the same weights."""
    weights: dict[int, Any] = {id(p): p for p in decoder.parameters()}
    return copy.deepcopy(decoder, weights)


def _merge(parts: list[nn.Linear]) -> nn.Linear:
    """One matrix that gives the outputs of several, one after another."""
    weight = torch.cat([part.weight for part in parts])
    merged = nn.Linear(weight.shape[1], weight.shape[0], bias=parts[0].bias is not None,
                       device="meta")  # fmt: skip
    merged.weight = nn.Parameter(weight, requires_grad=False)
    if parts[0].bias is not None:
        bias = torch.cat([part.bias for part in parts])
        merged.bias = nn.Parameter(bias, requires_grad=False)
    return merged


class MergedAttention(Attention):
    """Attention whose three input projections are one matrix product."""

    def __init__(self, plain: Attention) -> None:
        nn.Module.__init__(self)
        self.layer, self.config = plain.layer, plain.config
        self.sizes = [p.out_features for p in (plain.q_proj, plain.k_proj, plain.v_proj)]
        self.qkv_proj = _merge([plain.q_proj, plain.k_proj, plain.v_proj])
        self.o_proj = plain.o_proj
        if self.config.qk_norm:
            self.q_norm, self.k_norm = plain.q_norm, plain.k_norm

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys are rotated together: they lie side by side in the product."""
        heads, kv_heads, head_dim = (self.config.heads, self.config.kv_heads, self.config.head_dim)
        out = self.qkv_proj(x).view(x.shape[0], heads + 2 * kv_heads, head_dim)
        if self.config.qk_norm:
            queries, keys, values = out.split((heads, kv_heads, kv_heads), dim=1)
            turned = torch.cat(self.normed(queries, keys), dim=1)
        else:
            turned, values = out.split((heads + kv_heads, kv_heads), dim=1)
        queries, keys = self.rotated(turned, cos, sin).split((heads, kv_heads), dim=1)
        return queries, keys, values


class MergedSwiGLU(nn.Module):
    """The feed-forward with its gate and up projections as one matrix product."""

    def __init__(self, plain: SwiGLU) -> None:
        super().__init__()
        self.activation = plain.activation
        self.gate_up_proj = _merge([plain.gate_proj, plain.up_proj])
        self.down_proj = plain.down_proj

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        out: Tensor = self.down_proj(self.activation(gate) * up)
        return out


def _merged(plain: SwiGLU | Mixture) -> MergedSwiGLU | Mixture:
    """A feed-forward, or every expert of a mixture, with gate and up merged."""
    if not isinstance(plain, Mixture):
        return MergedSwiGLU(plain)
    plain.experts = nn.ModuleList(MergedSwiGLU(one) for one in plain.experts)  # type: ignore[arg-type]
    return plain


def merge_projections(decoder: Decoder) -> Decoder:
    """q, k and v in one product, gate and up in another: four products a layer instead of seven."""
    rewritten = shared_copy(decoder)
    for layer in rewritten.layers:
        layer.self_attn = MergedAttention(layer.self_attn)  # type: ignore[arg-type]
        layer.mlp = _merged(layer.mlp)  # type: ignore[arg-type]
    return rewritten.eval().requires_grad_(False)


class BareRMSNorm(nn.Module):
    """x / rms(x): the weight has moved into the matrices that follow."""

    def __init__(self, plain: RMSNorm) -> None:
        super().__init__()
        self.eps = plain.eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], None, self.eps).to(x.dtype)


def _scaled(linear: nn.Module, scale: Tensor) -> nn.Module:
    """The same layer for an input without the norm's weight: its matrix contains that weight."""
    folded = copy.copy(linear)
    folded._parameters = dict(linear._parameters)
    weight: Any = linear.weight
    weight = (weight.float() * scale.float()).to(weight.dtype)
    folded.weight = nn.Parameter(weight, requires_grad=False)
    return folded


def _fold(norm: nn.Module, owner: nn.Module, names: tuple[str, ...]) -> nn.Module:
    if not isinstance(norm, RMSNorm):
        return norm  # a model without norms here
    if isinstance(owner, Mixture):
        owner.gate = _scaled(owner.gate, norm.weight)  # type: ignore[assignment]
        for expert in owner.experts:
            _fold(norm, expert, names)
    for name in names:
        if hasattr(owner, name):
            setattr(owner, name, _scaled(getattr(owner, name), norm.weight))
    return BareRMSNorm(norm)


def fold_norms(decoder: Decoder) -> Decoder:
    """Multiply each norm's weight into the matrices after it: one operation less for each norm.

    Norms of results, before these are added to the stream, stay: no matrix follows them.

    A tied head becomes a matrix of its own, because the embedding must not change. A step reads the
    same bytes as before, but the model takes more memory.
    """
    rewritten = shared_copy(decoder)
    attention, mlp = (
        ("q_proj", "k_proj", "v_proj", "qkv_proj"),
        ("gate_proj", "up_proj", "gate_up_proj"),
    )
    for layer in rewritten.layers:
        layer.input_layernorm = _fold(layer.input_layernorm, layer.self_attn, attention)  # type: ignore[arg-type]
        layer.post_attention_layernorm = _fold(layer.post_attention_layernorm, layer.mlp, mlp)  # type: ignore[arg-type]
    rewritten.norm = _fold(rewritten.norm, rewritten, ("lm_head",))  # type: ignore[assignment]
    return rewritten


class TabledDecoder(Decoder):
    """A decoder that looks its rotations up instead of computing cosines for every pass."""

    cos: Tensor
    sin: Tensor

    def rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the tables, (rows, 1, head_dim)."""
        return self.cos[positions], self.sin[positions]


def tabulate_rope(decoder: Decoder, positions: int | None = None) -> Decoder:
    """Compute the cosines and sines of `positions` positions (by default the context) only once."""
    rewritten = shared_copy(decoder)
    every = torch.arange(positions or decoder.config.max_positions, device=decoder.device)
    cos, sin = decoder.rope(every)
    rewritten.__class__ = TabledDecoder
    rewritten.register_buffer("cos", cos, persistent=False)
    rewritten.register_buffer("sin", sin, persistent=False)
    return rewritten
