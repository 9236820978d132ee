"""The shape of a decoder, read from a config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from labkit.base.units import shown
from labkit.errors import ModelError
from labkit.model.experts import Experts
from labkit.model.families import FAMILIES, Family
from labkit.model.rope import read_rope, rotary_dim
from labkit.model.values import flag, ids, must_be, number, size


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder-only transformer with RMSNorm, RoPE, GQA and a gated feed-forward.

    What only some families do is data here (families.py has what each does), so that no decoder
    asks for a family's name:

    sliding_window: positions that a row looks back on, itself included, in the layers that
    `windowed` marks; () marks all. rotated: the layers whose queries and keys turn; () marks all.
    rope_dim: numbers of a head that turn, from the first on; None: all. local_rope_theta: RoPE's
    base in layers with a window, unscaled; None: as in the others. qk_norm: queries and keys have
    norms, over each head, or where qk_norm_whole over all heads together. pre_norms: norms before
    attention and the feed-forward; post_norms: norms of what these give, before it is added.
    activation: of the gate, silu or gelu_tanh. Multipliers: of the table's embeddings, of what
    attention and the feed-forward add to the stream, and of scores (None: 1 / sqrt(head_dim));
    logits are divided by logits_divisor. experts: the layers that have a mixture of experts in
    place of a feed-forward; None: no layer.

    Two fields tell how a checkpoint stores weights: norm_offset is added to those of its norms;
    joined_projections: q, k and v are one matrix there, gate and up another.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_positions: int
    rope_scaling: Mapping[str, Any] | None = None
    tied_head: bool = False
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    eos_ids: tuple[int, ...] = ()
    bos_id: int | None = None
    sliding_window: int | None = None
    windowed: tuple[bool, ...] = ()
    rotated: tuple[bool, ...] = ()
    rope_dim: int | None = None
    local_rope_theta: float | None = None
    qk_norm_whole: bool = False
    pre_norms: bool = True
    post_norms: bool = False
    activation: str = "silu"
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    attention_multiplier: float | None = None
    logits_divisor: float = 1.0
    norm_offset: float = 0.0
    joined_projections: bool = False
    experts: Experts | None = None

    @property
    def group(self) -> int:
        """Query heads that share one KV head."""
        return self.heads // self.kv_heads

    @property
    def turned(self) -> int:
        """Numbers of a head that RoPE turns."""
        return self.rope_dim or self.head_dim

    @property
    def ropes(self) -> int:
        """How many kinds of angles there are: two where layers with a window have their own."""
        return 1 if self.local_rope_theta is None else 2

    def rope_of(self, layer: int) -> int | None:
        """Which kind of angles a layer has, 0 or 1; None where it does not turn."""
        if self.rotated and not self.rotated[layer]:
            return None
        return int(self.local_rope_theta is not None and self.window_of(layer) is not None)

    def window_of(self, layer: int) -> int | None:
        """How many positions a row looks back on in a layer, itself included; None: on all."""
        return self.sliding_window if not self.windowed or self.windowed[layer] else None

    def with_layers(self, kept: Sequence[int]) -> ModelConfig:
        """The config of a decoder that has only these of the layers."""
        windowed, rotated = (
            tuple(marks[layer] for layer in kept) if marks else ()
            for marks in (self.windowed, self.rotated)
        )
        experts = self.experts.kept(kept) if self.experts else None
        return replace(self, layers=len(kept), windowed=windowed, rotated=rotated, experts=experts)

    def kv_bytes_per_token(self, element_bytes: float) -> float:
        """Bytes that one token of one sequence takes in the KV cache, over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * element_bytes


def _family(raw: Mapping[str, Any]) -> Family:
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        allowed = ", ".join(sorted(FAMILIES))
        raise ModelError(f"model_type {shown(kind)} is not supported; supported: {allowed}.")
    return FAMILIES[kind]


def _activation(raw: Mapping[str, Any], family: Family) -> str:
    """The name that this config has for the family's activation; ModelError for another one."""
    given = raw.get("hidden_act")
    given = next(iter(family.activations)) if given is None else given
    if not isinstance(given, str) or given not in family.activations:
        allowed = ", ".join(family.activations)
        raise ModelError(
            f"the activation (hidden_act or hidden_activation) {shown(given)} is not supported; "
            f"supported: {allowed}."
        )
    return family.activations[given]


def _heads(raw: Mapping[str, Any]) -> tuple[int, int, int]:
    """Query heads, KV heads, and numbers of a head."""
    heads, hidden = size(raw, "num_attention_heads"), size(raw, "hidden_size")
    kv_heads = size(raw, "num_key_value_heads", heads)
    head_dim = size(raw, "head_dim", max(1, hidden // heads))
    if heads % kv_heads:
        raise ModelError(
            f"num_key_value_heads {kv_heads} do not divide num_attention_heads {heads}."
        )
    if head_dim % 2:
        raise ModelError(f"head_dim must be even, for RoPE turns pairs; it is {head_dim}.")
    return heads, kv_heads, head_dim


def config_from_dict(given: Mapping[str, Any]) -> ModelConfig:
    """Read a Hugging Face config.json mapping.

    Raises ModelError for a family, activation or RoPE scaling that is not supported, and for a
    value that cannot be.
    """
    family = _family(given)
    for name in ("quantization_config", "compression_config"):
        must_be(given, name)  # weights in a format of its own
    raw = family.plain({**family.defaults, **given})
    heads, kv_heads, head_dim = _heads(raw)
    layers = size(raw, "num_hidden_layers")
    positions = size(raw, "max_position_embeddings")
    turned = rotary_dim(raw, head_dim, family.partial_rotary)
    theta, scaling = read_rope(raw, turned, positions)
    eps = number(raw.get("rms_norm_eps", 1e-6), "rms_norm_eps")
    if not 0 <= eps < 1:
        raise ModelError(f"rms_norm_eps must be at least 0 and less than 1; it is {eps:g}.")
    bos = ids(raw.get("bos_token_id"), "bos_token_id")
    return ModelConfig(
        family=family.name,
        vocab_size=size(raw, "vocab_size"),
        hidden_size=size(raw, "hidden_size"),
        intermediate_size=size(raw, "intermediate_size"),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=eps,
        rope_theta=theta,
        rope_scaling=scaling,
        rope_dim=None if turned == head_dim else turned,
        max_positions=min(positions, (scaling or {}).get("context") or positions),
        tied_head=flag(raw, "tie_word_embeddings"),
        activation=_activation(raw, family),
        eos_ids=ids(raw.get("eos_token_id"), "eos_token_id"),
        bos_id=bos[0] if bos else None,
        **family.read(raw, layers),
    )


def _json(path: Path) -> dict[str, Any]:
    """A JSON object of a file; ModelError for anything else."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise ModelError(f"{path} is not readable as JSON: {error}.") from error
    if not isinstance(raw, dict):
        raise ModelError(f"{path} must hold a JSON object; it holds {type(raw).__name__}.")
    return raw


def read_config(directory: Path) -> ModelConfig:
    """The config of a model directory; ModelError when it has none or it is broken.

    Stop tokens are those of config.json and of generation_config.json: many models name the end of
    a turn only there.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise ModelError(f"{directory} has no config.json: it is not a model directory.")
    raw = _json(path)
    try:
        config = config_from_dict(raw)
    except ModelError as error:
        raise ModelError(f"{path} is not a readable model config: {error}") from None
    more = _generation_stops(directory / "generation_config.json")
    # The family's own stop token stands for one that neither file names.
    own = config.eos_ids if "eos_token_id" in raw or not more else ()
    return replace(config, eos_ids=tuple(dict.fromkeys((*own, *more))))


def _generation_stops(path: Path) -> tuple[int, ...]:
    """The stop tokens of a generation_config.json; none where there is no such file."""
    if not path.is_file():
        return ()
    try:
        return ids(_json(path).get("eos_token_id"), "eos_token_id")
    except ModelError as error:
        raise ModelError(f"{path} is not a readable generation config: {error}") from None
