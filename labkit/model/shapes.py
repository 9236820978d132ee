"""The weights that a config asks for: the one check that every loader makes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labkit.errors import ModelError
from labkit.model.config import ModelConfig, config_from_dict

HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every weight that a config asks for, by the plain decoder's names.

    Written out rather than read off a `Decoder`, whose making without memory takes torch seconds.
    """
    hidden, inner, size = config.hidden_size, config.intermediate_size, config.head_dim
    queries, kv = config.heads * size, config.kv_heads * size
    matrices = {
        "self_attn.q_proj": (queries, hidden, config.attention_bias),
        "self_attn.k_proj": (kv, hidden, config.attention_bias),
        "self_attn.v_proj": (kv, hidden, config.attention_bias),
        "self_attn.o_proj": (hidden, queries, config.output_bias),
        "mlp.gate_proj": (inner, hidden, config.mlp_bias),
        "mlp.up_proj": (inner, hidden, config.mlp_bias),
        "mlp.down_proj": (hidden, inner, config.mlp_bias),
    }
    layer: dict[str, tuple[int, ...]] = {
        f"{name}.weight": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")
    }
    for name, (rows, columns, biased) in matrices.items():
        layer |= {f"{name}.weight": (rows, columns)} | ({f"{name}.bias": (rows,)} if biased else {})
    if config.qk_norm:
        layer |= {f"self_attn.{name}_norm.weight": (size,) for name in ("q", "k")}
    found = {EMBEDDING: (config.vocab_size, hidden), "norm.weight": (hidden,)}
    if not config.tied_head:
        found[HEAD] = (config.vocab_size, hidden)
    for number in range(config.layers):
        found |= {f"layers.{number}.{name}": shape for name, shape in layer.items()}
    return found


def check_weights(
    raw: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: Path
) -> ModelConfig:
    """The config of weights with these shapes; the one check that every loader makes.

    raw: a config.json. shapes: by name, with or without the `model.` prefix. A head beside a tied
    embedding is allowed: where it is another one, it is used. Raises ModelError where names
    or shapes are not the config's.
    """
    config = config_from_dict(raw)
    given = {name.removeprefix("model."): shape for name, shape in shapes.items()}
    check_shapes(config, given, where)
    return config


def check_shapes(config: ModelConfig, given: Mapping[str, tuple[int, ...]], where: Path) -> None:
    """ModelError where names or shapes of weights are not the config's."""
    if config.layers > len(given):  # before a table of that many is made
        raise ModelError(
            f"{where}: {config.layers:,} layers in the config, but only {len(given)} tensors."
        )
    expected = expected_shapes(config)
    if config.tied_head and HEAD in given:
        expected[HEAD] = expected[EMBEDDING]
    if missing := sorted(expected.keys() - given.keys()):
        raise ModelError(f"{where}: weights lack {len(missing)} tensors, first {missing[0]}.")
    if extra := sorted(given.keys() - expected.keys()):
        raise ModelError(f"{where}: {len(extra)} tensors are not the model's, first {extra[0]}.")
    for name, shape in expected.items():
        if shape != tuple(given[name]):
            raise ModelError(
                f"{where}: {name} has shape {tuple(given[name])}, the config says {shape}."
            )
