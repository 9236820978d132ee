"""The plain decoder: one forward for a ragged batch of rows, in readable PyTorch.

Submodules carry the names of Hugging Face checkpoints, so that their tensors load as they are.
Tests compare every faster path of this project with this one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.model.cache.protocol import CacheShape, KeysValues, TensorStore
from labkit.model.cache.static import StaticCache
from labkit.model.cache.table import Cache, tensors_of
from labkit.model.config import ModelConfig
from labkit.model.rope import attention_factor, frequencies
from labkit.model.rows import Rows, Span


class RMSNorm(nn.Module):
    """x / rms(x) * weight (Zhang and Sennrich, 1910.07467); the mean is taken in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, None, self.eps).to(x.dtype) * self.weight


def rope_frequencies(config: ModelConfig) -> Tensor:
    """Angle per position of each pair of dimensions, (head_dim / 2,) float32."""
    return frequencies(config.head_dim, config.rope_theta, config.rope_scaling)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x (rows, heads, head_dim) by its row's angles; cos, sin (rows, 1, head_dim)."""
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


def attend(queries: Tensor, cached: KeysValues, mask: Tensor | None, causal: bool) -> Tensor:
    """Grouped-query attention (Ainslie et al., 2305.13245) of one slot's rows.

    queries (rows, heads, head_dim), mask (rows, n) or None -> (rows, heads, head_dim).
    """
    rows, heads, head_dim = queries.shape
    kv_heads = cached.keys.shape[0]
    keys, values = cached.keys[None], cached.values[None]  # (1, kv_heads, n, head_dim)
    if causal:
        q = queries.transpose(0, 1)[None]
        out = F.scaled_dot_product_attention(q, keys, values, is_causal=True, enable_gqa=True)
        return out[0].transpose(0, 1)
    # Query heads that share a KV head become rows of one product: no key is copied.
    group = heads // kv_heads
    q = queries.view(rows, kv_heads, group, head_dim).transpose(0, 1)
    q = q.reshape(1, kv_heads, rows * group, head_dim)
    if mask is not None:
        mask = mask.repeat_interleave(group, dim=0)
    out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
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
            self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values, each (rows, its heads, head_dim)."""
        shape = (x.shape[0], -1, self.config.head_dim)
        queries, keys = self.q_proj(x).view(shape), self.k_proj(x).view(shape)
        if self.config.qk_norm:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        return rotate(queries, cos, sin), rotate(keys, cos, sin), self.v_proj(x).view(shape)

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
        own = self.config.sliding_window  # the narrower of the model's window and the cache's
        if own is not None and (window is None or own <= window):
            window, sinks = own, 0
        free = window is None or span.end <= window
        if free and (span.count == 1 or not span.causal):  # each row sees all
            return attend(queries, cached, None, causal=False)
        if span.start == 0 and free and not span.parents:
            return attend(queries, cached, None, causal=True)
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
        return attend(queries, cached, mask, causal=False)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer, 2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, ffn, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(hidden, ffn, bias=bias)
        self.up_proj = nn.Linear(hidden, ffn, bias=bias)
        self.down_proj = nn.Linear(ffn, hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """One pre-norm block: attention, then the feed-forward, each added to the stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGLU(config)

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], rows: Rows, store: TensorStore
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rope, rows, store)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Decoder(nn.Module):
    """A decoder-only transformer of the Llama, Qwen2 or Qwen3 family."""

    frequencies: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.register_buffer("frequencies", rope_frequencies(config), persistent=False)
        self.tie()

    def tie(self) -> None:
        """Let the head share the embedding's tensor where the family says so."""
        if self.config.tied_head:
            self.lm_head.weight = self.embed_tokens.weight

    @property
    def dtype(self) -> torch.dtype:
        return self.embed_tokens.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.embed_tokens.weight.device

    @property
    def cache_shape(self) -> CacheShape:
        """The shape of the keys and values that this model writes."""
        return CacheShape.of(self.config, self.dtype, self.device)

    def new_cache(self, slots: int, capacity: int) -> StaticCache:
        """A static cache for this model, of this model's dtype, on its device."""
        return StaticCache(self.config, slots, capacity, self.dtype, self.device)

    def rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of each row's angles, (rows, 1, head_dim), in the model's dtype."""
        angles = positions[:, None].float() * self.frequencies  # (rows, head_dim / 2)
        angles = torch.cat((angles, angles), dim=-1)[:, None]
        factor = attention_factor(self.config.rope_scaling)
        return (angles.cos() * factor).to(self.dtype), (angles.sin() * factor).to(self.dtype)

    def embed(self, rows: Rows) -> Tensor:
        """What the first layer reads, (rows, hidden): rows of the table, or given embeddings.

        Raises IndexError for a token outside the vocabulary, ValueError for embeddings of another
        width.
        """
        x: Tensor = self.embed_tokens(rows.tokens)
        for at, given in rows.embedded:
            count, hidden = x[at].shape
            if given.shape != (count, hidden):
                raise ValueError(
                    f"embeddings {tuple(given.shape)} for {count} rows of {hidden} numbers."
                )
            x[at] = given.to(x)
        return x

    def hidden(self, rows: Rows, cache: Cache) -> Tensor:
        """The residual stream after the last layer, before the final norm, (rows, hidden)."""
        at = rows.to(self.device)
        store = tensors_of(cache, self.cache_shape)
        x = self.embed(at)
        cache.reserve(rows)
        rope = self.rope(at.positions)
        for layer in self.layers:
            x = layer(x, rope, at, store)
        return x

    def head(self, hidden: Tensor) -> Tensor:
        """Logits (n, vocab) float32 of the stream (n, hidden)."""
        logits: Tensor = self.lm_head(self.norm(hidden))
        return logits.float()

    @torch.inference_mode()
    def traced(self, rows: Rows, cache: Cache) -> tuple[Tensor, Tensor]:
        """Logits as `forward` gives them, and the stream of all rows, (rows, hidden)."""
        at = rows.to(self.device)
        hidden = self.hidden(at, cache)
        return self.head(hidden[at.wanted]), hidden

    @torch.inference_mode()
    def forward(self, rows: Rows, cache: Cache) -> Tensor:
        """Logits of the wanted rows, (wanted, vocab) float32.

        Raises CacheError, before anything is written, for rows that do not fit the cache.
        """
        return self.traced(rows, cache)[0]
