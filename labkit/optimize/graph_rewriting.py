"""Rewrites of the graph: the same mathematics in fewer, or better, operations.

Each function takes an unmodified decoder and returns another that speaks the same forward
contract; weights that a rewrite leaves alone are shared, not copied. TensorRT-LLM and
torch.compile do the like on the whole graph; here each step stands alone, so that it can be
measured alone and stacked.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.errors import LabkitError
from labkit.model.cache import StaticCache
from labkit.model.config import ModelConfig
from labkit.model.decoder import Attention, Decoder, RMSNorm, SwiGLU, rotate
from labkit.model.rows import Rows


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
        """Queries and keys are rotated together: they are neighbours in the product."""
        heads, kv_heads, head_dim = (self.config.heads, self.config.kv_heads, self.config.head_dim)
        out = self.qkv_proj(x).view(x.shape[0], heads + 2 * kv_heads, head_dim)
        if self.config.qk_norm:
            queries, keys, values = out.split((heads, kv_heads, kv_heads), dim=1)
            turned = torch.cat((self.q_norm(queries), self.k_norm(keys)), dim=1)
        else:
            turned, values = out.split((heads + kv_heads, kv_heads), dim=1)
        queries, keys = rotate(turned, cos, sin).split((heads, kv_heads), dim=1)
        return queries, keys, values


class MergedSwiGLU(nn.Module):
    """SwiGLU whose gate and up projections are one matrix product."""

    def __init__(self, plain: SwiGLU) -> None:
        super().__init__()
        self.gate_up_proj = _merge([plain.gate_proj, plain.up_proj])
        self.down_proj = plain.down_proj

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


def merge_projections(decoder: Decoder) -> Decoder:
    """q, k and v in one product, gate and up in another: four products a layer instead of seven."""
    rewritten = shared_copy(decoder)
    for layer in rewritten.layers:
        layer.self_attn = MergedAttention(layer.self_attn)  # type: ignore[arg-type]
        layer.mlp = MergedSwiGLU(layer.mlp)  # type: ignore[arg-type]
    return rewritten.eval().requires_grad_(False)


class BareRMSNorm(nn.Module):
    """x / rms(x): the weight has moved into the matrices that follow."""

    def __init__(self, plain: RMSNorm) -> None:
        super().__init__()
        self.eps = plain.eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], None, self.eps).to(x.dtype)


def _scaled(linear: nn.Linear, scale: Tensor) -> nn.Linear:
    """A linear layer that takes its input before the norm's weight was applied."""
    folded = copy.copy(linear)
    folded._parameters = dict(linear._parameters)
    weight = (linear.weight.float() * scale.float()).to(linear.weight.dtype)
    folded.weight = nn.Parameter(weight, requires_grad=False)
    return folded


def _fold(norm: RMSNorm, owner: nn.Module, names: tuple[str, ...]) -> BareRMSNorm:
    for name in names:
        if hasattr(owner, name):
            setattr(owner, name, _scaled(getattr(owner, name), norm.weight))
    return BareRMSNorm(norm)


def fold_norms(decoder: Decoder) -> Decoder:
    """Norm weights multiplied into the matrices behind them: one operation less a norm.

    A tied head becomes a table of its own, since the embedding must stay as it is: the same bytes
    are read, more are held.
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
    """Cosines and sines of every position up to `positions` (the model's context), once."""
    rewritten = shared_copy(decoder)
    every = torch.arange(positions or decoder.config.max_positions, device=decoder.device)
    cos, sin = decoder.rope(every)
    rewritten.__class__ = TabledDecoder
    rewritten.register_buffer("cos", cos, persistent=False)
    rewritten.register_buffer("sin", sin, persistent=False)
    return rewritten


class StaticShapes(nn.Module):
    """Decodes one row with tensors whose shapes never change, so that a compiler sees one graph.

    Attention runs over the whole capacity of the cache under a mask, which costs reads that a
    growing shape would not: that is the price, and the reason to choose the capacity well. Passes
    of other shapes go to the decoder as it is.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.step: Callable[..., Tensor] = self._step

    @property
    def config(self) -> ModelConfig:
        return self.decoder.config

    def new_cache(self, slots: int, capacity: int) -> StaticCache:
        """A static cache; its capacity is what every step attends over."""
        return self.decoder.new_cache(slots, capacity)

    @torch.inference_mode()
    def forward(self, rows: Rows, cache: StaticCache) -> Tensor:
        """Logits of the wanted rows, (wanted, vocab) float32."""
        window = self.config.sliding_window
        if len(rows) != 1 or not isinstance(cache, StaticCache) or window is not None:
            return self.decoder(rows, cache)
        cache.reserve(rows)
        slot = rows.spans[0].slot
        keys, values = cache.tensors(slot)
        moved = rows.to(self.decoder.device)
        return self.step(moved.tokens, moved.positions, keys, values)

    def _step(self, token: Tensor, position: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """token, position (1,); keys, values (layers, kv_heads, capacity, head_dim), written to."""
        decoder = self.decoder
        mask = (torch.arange(keys.shape[2], device=keys.device) <= position)[None]
        rope = decoder.rope(position)
        x = decoder.embed_tokens(token)
        for i, layer in enumerate(decoder.layers):
            attention: Any = layer.self_attn
            queries, key, value = attention.project(layer.input_layernorm(x), *rope)  # type: ignore[operator]
            keys[i].index_copy_(1, position, key.transpose(0, 1))
            values[i].index_copy_(1, position, value.transpose(0, 1))
            x = x + attention.o_proj(_attend(queries, keys[i], values[i], mask))
            x = x + layer.mlp(layer.post_attention_layernorm(x))  # type: ignore[operator]
        return decoder.head(x)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """One row's grouped-query attention over all of a cache, (1, heads * head_dim)."""
    kv_heads, _, head_dim = keys.shape
    grouped = queries.view(1, kv_heads, -1, head_dim)
    out = F.scaled_dot_product_attention(grouped, keys[None], values[None], attn_mask=mask)
    return out.reshape(1, -1)


class CompilerError(LabkitError):
    """torch.compile cannot build code here."""


def compile_step(decoder: Decoder, freeze: bool = True) -> StaticShapes:
    """torch.compile over the whole decode step: operations fused, Python gone.

    The first step compiles, which takes a minute or so; `freeze` lets the compiler take weights as
    constants and lay them out for its kernels. Raises CompilerError on a CPU without a compiler.
    """
    if decoder.device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise CompilerError("torch.compile needs a C++ compiler on a CPU: install g++ or clang.")
    compiled = StaticShapes(decoder)
    options: dict[str, Any] = (
        {"freezing": freeze} if decoder.device.type == "cpu" else {"triton.cudagraphs": True}
    )
    compiled.step = torch.compile(compiled._step, dynamic=False, fullgraph=True, options=options)
    return compiled


def first_step_seconds(compiled: StaticShapes, capacity: int) -> float:
    """Seconds until the first step is there: the compile time."""
    cache = compiled.new_cache(1, capacity)
    start = time.perf_counter()
    compiled(Rows.decode({0: (1, 0)}), cache)
    return time.perf_counter() - start


def payback_tokens(set_up_seconds: float, before: float, after: float) -> float:
    """Tokens until a set-up is paid back, from seconds a token before and after; inf if never."""
    return set_up_seconds / (before - after) if after < before else float("inf")
