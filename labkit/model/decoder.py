"""The plain decoder: one forward for a ragged batch of rows, in readable PyTorch.

Submodules carry the names of Hugging Face's Llama; shapes.py maps those of other families to them.
Tests compare every faster path of this project with this one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.model.attention import Attention, RMSNorm
from labkit.model.cache.paged import PagedCache
from labkit.model.cache.paged_store import PagedTensorStore
from labkit.model.cache.protocol import CacheShape, TensorStore
from labkit.model.cache.static import StaticCache
from labkit.model.cache.table import Cache, tensors_of
from labkit.model.config import ModelConfig
from labkit.model.experts import Mixture
from labkit.model.rope import attention_factor, check_context, frequencies
from labkit.model.rows import Rows

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


def rope_frequencies(config: ModelConfig) -> Tensor:
    """Angle per position of each pair of dimensions, (ropes, turned numbers / 2) float32: of all
    layers, then where they have their own of layers with a window."""
    found = [frequencies(config.turned, config.rope_theta, config.rope_scaling)]
    if config.local_rope_theta is not None:
        found.append(frequencies(config.turned, config.local_rope_theta, None))
    return torch.stack(found)


def divided(logits: Tensor, config: ModelConfig) -> Tensor:
    """Products with the head as logits: divided by what the model divides them by."""
    by = config.logits_divisor
    return logits if by == 1 else logits / by


class SwiGLU(nn.Module):
    """down(act(gate(x)) * up(x)) (Shazeer, 2002.05202); with GELU in place of SiLU it is GeGLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, ffn, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.activation = ACTIVATIONS[config.activation]
        self.gate_proj = nn.Linear(hidden, ffn, bias=bias)
        self.up_proj = nn.Linear(hidden, ffn, bias=bias)
        self.down_proj = nn.Linear(ffn, hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))
        return out


def feed_forward(config: ModelConfig, layer: int) -> SwiGLU | Mixture:
    """What follows a layer's attention: one feed-forward, or a mixture of experts."""
    experts = config.experts
    if experts is None or layer not in experts.layers:
        return SwiGLU(config)
    one = replace(config, intermediate_size=experts.size)
    return Mixture(experts, config.hidden_size, (SwiGLU(one) for _ in range(experts.count)))


class Layer(nn.Module):
    """One block: attention, then the feed-forward, each added to the stream.

    Norms come before each of the two, or before what it gives is added, or both.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()

        def norm(wanted: bool) -> nn.Module:
            return RMSNorm(config.hidden_size, config.rms_norm_eps) if wanted else nn.Identity()

        self.multiplier = config.residual_multiplier
        self.input_layernorm = norm(config.pre_norms)
        self.self_attn = Attention(config, layer)
        self.attention_post_norm = norm(config.post_norms)
        self.post_attention_layernorm = norm(config.pre_norms)
        self.mlp = feed_forward(config, layer)
        self.feed_forward_post_norm = norm(config.post_norms)

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], rows: Rows, store: TensorStore
    ) -> Tensor:
        return self.after_attention(x, self.self_attn(self.input_layernorm(x), rope, rows, store))

    def after_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """The stream after the layer, from the one before it and what its attention gives."""
        x = self._add(x, self.attention_post_norm(attended))
        fed = self.mlp(self.post_attention_layernorm(x))
        return self._add(x, self.feed_forward_post_norm(fed))

    def _add(self, x: Tensor, more: Tensor) -> Tensor:
        return x + (more if self.multiplier == 1 else more * self.multiplier)


class Decoder(nn.Module):
    """A decoder-only transformer of any family of families.py."""

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

    def new_paged_cache(self, slots: int, blocks: int) -> PagedCache:
        """A cache of `blocks` blocks that all slots share, of this model's dtype and device."""
        store = PagedTensorStore(self.config, slots, blocks, self.dtype, self.device)
        return PagedCache(store, slots)

    def rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin of each row's angles, (rows, ropes, turned numbers), in the model's dtype."""
        angles = positions[:, None, None].float() * self.frequencies  # (rows, ropes, turned / 2)
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = (self._scaled(part).to(self.dtype) for part in (angles.cos(), angles.sin()))
        return cos, sin

    def _scaled(self, part: Tensor) -> Tensor:
        """Cosines or sines (rows, ropes, n) of which the scaling of RoPE makes more or less."""
        factor = attention_factor(self.config.rope_scaling)
        if self.config.ropes == 1:
            return part * factor
        return torch.cat((part[:, :1] * factor, part[:, 1:]), dim=1)  # the others are not scaled

    def table(self, tokens: Tensor) -> Tensor:
        """Embeddings of tokens (...), (..., hidden): rows of the table, times its multiplier."""
        x: Tensor = self.embed_tokens(tokens)
        by = self.config.embedding_multiplier
        return x if by == 1 else x * by

    def embed(self, rows: Rows) -> Tensor:
        """What the first layer reads, (rows, hidden): rows of the table, or given embeddings.

        Raises IndexError for a token outside the vocabulary, ValueError for embeddings of another
        width.
        """
        x = self.table(rows.tokens)
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
        check_context(self.config.rope_scaling, max(rows.at, default=0) + 1)
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
        logits: Tensor = self.lm_head(self.norm(hidden)).float()
        return divided(logits, self.config)

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
