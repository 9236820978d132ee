"""Attention of the plain decoder: norms, rotation, the cache, and grouped-query attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.model.cache.protocol import KeysValues, TensorStore
from labkit.model.config import ModelConfig
from labkit.model.rows import Rows, Span


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang and Sennrich, 1910.07467); the mean is taken in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, None, self.eps).to(x.dtype) * self.weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x (rows, heads, head_dim) by its row's angles; cos, sin (rows, 1, turned numbers)."""
    turned = cos.shape[-1]
    if turned < x.shape[-1]:
        return torch.cat((rotate(x[..., :turned], cos, sin), x[..., turned:]), dim=-1)
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


def visible(positions: Tensor, cached: Tensor, window: int | None, sinks: int) -> Tensor:
    """Which `cached` positions (n,) each row at `positions` (rows,) sees, (rows, n) bool."""
    rows, keys = positions[:, None], cached[None, :]
    mask = keys <= rows
    if window is not None:
        mask &= (keys > rows - window) | (keys < sinks)
    return mask


def on_path(span: Span) -> Tensor:
    """Which rows of a tree each row attends to, (count, count) bool: those above it and itself.

    Tree attention (Miao et al., 2305.09781, section 4.2).
    """
    mask = torch.zeros(span.count, span.count, dtype=torch.bool)
    for row in range(span.count):
        mask[row, span.path(row)] = True
    return mask


def attend(
    queries: Tensor,
    cached: KeysValues,
    mask: Tensor | None,
    causal: bool,
    scale: float | None = None,
) -> Tensor:
    """Grouped-query attention (Ainslie et al., 2305.13245) of one slot's rows.

    queries (rows, heads, head_dim), mask (rows, n) or None -> (rows, heads, head_dim).
    scale: of the scores; None: 1 / sqrt(head_dim).
    """
    rows, heads, head_dim = queries.shape
    kv_heads = cached.keys.shape[0]
    keys, values = cached.keys[None], cached.values[None]  # (1, kv_heads, n, head_dim)
    if causal:
        q = queries.transpose(0, 1)[None]
        out = F.scaled_dot_product_attention(
            q, keys, values, is_causal=True, enable_gqa=True, scale=scale
        )
        return out[0].transpose(0, 1)
    # Query heads that share a KV head become rows of one product: no key is copied.
    group = heads // kv_heads
    q = queries.view(rows, kv_heads, group, head_dim).transpose(0, 1)
    q = q.reshape(1, kv_heads, rows * group, head_dim)
    if mask is not None:
        mask = mask.repeat_interleave(group, dim=0)
    out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=scale)
    return out[0].view(kv_heads, rows, group, head_dim).transpose(0, 1).reshape(queries.shape)


class Attention(nn.Module):
    """Projections, rotation, cache and grouped-query attention of one layer."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.config = layer, config
        queries, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
        bias = config.attention_bias
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, kv, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, kv, bias=bias)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=config.output_bias)
        if config.qk_norm:
            sizes = (queries, kv) if config.qk_norm_whole else (config.head_dim, config.head_dim)
            self.q_norm = RMSNorm(sizes[0], config.rms_norm_eps)
            self.k_norm = RMSNorm(sizes[1], config.rms_norm_eps)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values, each (rows, its heads, head_dim)."""
        shape = (x.shape[0], -1, self.config.head_dim)
        queries, keys = self.normed(self.q_proj(x).view(shape), self.k_proj(x).view(shape))
        values = self.v_proj(x).view(shape)
        return self.rotated(queries, cos, sin), self.rotated(keys, cos, sin), values

    def normed(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys (rows, heads, head_dim) under their norms, where the model has them."""
        if not self.config.qk_norm:
            return queries, keys
        if self.config.qk_norm_whole:
            whole = self.q_norm(queries.flatten(1)), self.k_norm(keys.flatten(1))
            return whole[0].view(queries.shape), whole[1].view(keys.shape)
        return self.q_norm(queries), self.k_norm(keys)

    def rotated(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x (rows, heads, head_dim) turned by the angles of this layer, of those that there are."""
        kind = self.config.rope_of(self.layer)
        if kind is None:
            return x
        return rotate(x, cos[:, kind : kind + 1], sin[:, kind : kind + 1])

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], rows: Rows, store: TensorStore
    ) -> Tensor:
        queries, keys, values = self.project(x, *rope)
        store.append(self.layer, rows, keys, values)
        mixed = [self._attend(queries[s.rows], rows, s, store) for s in rows.spans]
        heads = mixed[0] if len(mixed) == 1 else torch.cat(mixed)
        out: Tensor = self.o_proj(heads.reshape(len(rows), -1))
        return out

    def _attend(self, queries: Tensor, rows: Rows, span: Span, store: TensorStore) -> Tensor:
        cached = store.read(self.layer, span)
        window, sinks = store.window, store.sinks
        scale = self.config.attention_multiplier
        own = self.config.window_of(self.layer)  # the narrower of it and the cache's
        if own is not None and (window is None or own <= window):
            window, sinks = own, 0
        free = window is None or span.end <= window
        if free and (span.count == 1 or not span.causal):  # each row sees all
            return attend(queries, cached, None, causal=False, scale=scale)
        if span.start == 0 and free and not span.parents:
            return attend(queries, cached, None, causal=True, scale=scale)
        positions = rows.positions[span.rows]
        if not span.causal:
            mask = visible(positions, cached.positions, window, sinks)
            mask |= (cached.positions >= span.start)[None]
        elif not span.parents:
            mask = visible(positions, cached.positions, window, sinks)
        else:  # the cache numbers a tree's rows one after another; their positions are depths
            at = torch.cat((cached.positions[: span.start], positions))
            mask = visible(positions, at, window, sinks)
            mask[:, span.start :] &= on_path(span).to(mask.device)
        return attend(queries, cached, mask, causal=False, scale=scale)
