"""The weights that a config asks for: the one check that every loader makes.

Most tensors of a checkpoint are the plain decoder's by name and values. Some families store them in
another way: norms under other names or less 1, several matrices as one. `stored` is the one place
that says which rows of which tensor are which weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from labkit.errors import ModelError
from labkit.model.config import ModelConfig, config_from_dict
from labkit.model.experts import check_count, mixture_shapes

HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"
# Of a model whose results have norms too: the decoder's name of a norm -> the checkpoint's.
_POST_NORMS = {
    "attention_post_norm": "post_attention_layernorm",
    "post_attention_layernorm": "pre_feedforward_layernorm",
    "feed_forward_post_norm": "post_feedforward_layernorm",
}
_JOINED = {
    "self_attn.q_proj": "self_attn.qkv_proj",
    "self_attn.k_proj": "self_attn.qkv_proj",
    "self_attn.v_proj": "self_attn.qkv_proj",
    "mlp.gate_proj": "mlp.gate_up_proj",
    "mlp.up_proj": "mlp.gate_up_proj",
}


class Piece(NamedTuple):
    """Rows of a checkpoint's tensor that are one of the decoder's weights, all of it."""

    name: str
    first: int
    rows: int


def _layer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every weight of a layer."""
    hidden, inner, size = config.hidden_size, config.intermediate_size, config.head_dim
    queries, kv = config.heads * size, config.kv_heads * size
    norms = ["input_layernorm", "post_attention_layernorm"] if config.pre_norms else []
    norms += ["attention_post_norm", "feed_forward_post_norm"] if config.post_norms else []
    matrices = {
        "self_attn.q_proj": (queries, hidden, config.attention_bias),
        "self_attn.k_proj": (kv, hidden, config.attention_bias),
        "self_attn.v_proj": (kv, hidden, config.attention_bias),
        "self_attn.o_proj": (hidden, queries, config.output_bias),
        "mlp.gate_proj": (inner, hidden, config.mlp_bias),
        "mlp.up_proj": (inner, hidden, config.mlp_bias),
        "mlp.down_proj": (hidden, inner, config.mlp_bias),
    }
    layer: dict[str, tuple[int, ...]] = {f"{name}.weight": (hidden,) for name in norms}
    for name, (rows, columns, biased) in matrices.items():
        layer |= {f"{name}.weight": (rows, columns)} | ({f"{name}.bias": (rows,)} if biased else {})
    if config.qk_norm:
        whole = config.qk_norm_whole
        layer["self_attn.q_norm.weight"] = (queries if whole else size,)
        layer["self_attn.k_norm.weight"] = (kv if whole else size,)
    return layer


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every weight that a config asks for, by the plain decoder's names.

    Written out rather than read off a `Decoder`, whose making without memory takes torch seconds.
    """
    hidden, layer = config.hidden_size, _layer_shapes(config)
    found = {EMBEDDING: (config.vocab_size, hidden), "norm.weight": (hidden,)}
    if not config.tied_head:
        found[HEAD] = (config.vocab_size, hidden)
    experts = config.experts
    sparse = {name: shape for name, shape in layer.items() if not name.startswith("mlp.")}
    sparse |= mixture_shapes(experts, hidden) if experts else {}
    for number in range(config.layers):
        own = sparse if experts and number in experts.layers else layer
        found |= {f"layers.{number}.{name}": shape for name, shape in own.items()}
    return found


def _stored_name(config: ModelConfig, name: str) -> str:
    """The name in a checkpoint of the tensor that holds one of the decoder's weights."""
    module, _, kind = name.rpartition(".")
    parts = module.split(".", 2)  # layers, number, module
    if len(parts) < 3:
        return name
    own = parts[2]
    own = _POST_NORMS.get(own, own) if config.post_norms else own
    own = _JOINED.get(own, own) if config.joined_projections else own
    return f"{parts[0]}.{parts[1]}.{own}.{kind}"


def stored(config: ModelConfig) -> dict[str, list[Piece]]:
    """What each tensor of a checkpoint holds, by its name without the `model.` prefix."""
    found: dict[str, list[Piece]] = {}
    for name, shape in expected_shapes(config).items():
        pieces = found.setdefault(_stored_name(config, name), [])
        first = pieces[-1].first + pieces[-1].rows if pieces else 0
        pieces.append(Piece(name, first, shape[0]))
    return found


def pieces_of(table: Mapping[str, list[Piece]], name: str, rows: int) -> list[Piece]:
    """What a tensor holds, from `stored`; a head beside a tied embedding is itself."""
    return table.get(name) or [Piece(name, 0, rows)]


def decoder_weights(
    config: ModelConfig, tensors: Iterable[tuple[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """(the decoder's name, tensor) of every weight, from a checkpoint's names and tensors."""
    table = stored(config)
    for name, tensor in tensors:
        if config.norm_offset and name.endswith("norm.weight"):
            tensor = tensor.float() + config.norm_offset
        for piece in pieces_of(table, name, len(tensor)):
            yield piece.name, tensor[piece.first : piece.first + piece.rows]


def check_weights(
    raw: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], where: Path
) -> ModelConfig:
    """The config of weights with these shapes; the one check that every loader makes.

    raw: a config.json. shapes: by name, with or without the `model.` prefix. A head beside a tied
    embedding is allowed: where it is another one, it is used. Raises ModelError where names
    or shapes are not the config's.
    """
    try:
        config = config_from_dict(raw)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from None
    given = {name.removeprefix("model."): shape for name, shape in shapes.items()}
    check_shapes(config, given, where)
    return config


def check_shapes(config: ModelConfig, given: Mapping[str, tuple[int, ...]], where: Path) -> None:
    """ModelError where names or shapes of a checkpoint's tensors are not the config's."""
    if config.layers > len(given):  # before a table of that many is made
        raise ModelError(
            f"{where}: {config.layers:,} layers in the config, but only {len(given)} tensors."
        )
    if config.experts:
        check_count(config.experts, given, where)
    shapes = expected_shapes(config)
    expected = {
        name: (sum(piece.rows for piece in pieces), *shapes[pieces[0].name][1:])
        for name, pieces in stored(config).items()
    }
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
