"""The ledger: the bytes and FLOPs that a model and a workload cannot do without.

It is counted from the config alone. Tests compare it with torch's own FLOP counter and with the
bytes of real tensors and caches. LLM-Viewer (2402.16363) counts the KV cache for all query heads.
Here grouped-query attention is counted for its KV heads, because only those are stored and read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from labkit.model.config import ModelConfig

ELEMENT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "int4": 0.5}


@dataclass(frozen=True)
class Cost:
    """What one forward pass must do, in bytes and in FLOPs (2 for a multiply-add).

    read_bytes does not include activation_bytes: at these sizes activations stay in the processor's
    caches.
    """

    weight_bytes: float
    kv_read_bytes: float
    kv_write_bytes: float
    activation_bytes: float
    matrix_flops: float
    attention_flops: float
    dtype: str = "float32"

    @property
    def flops(self) -> float:
        return self.matrix_flops + self.attention_flops

    @property
    def read_bytes(self) -> float:
        """Bytes that must come from memory: the weights, and the earlier tokens' KV cache."""
        return self.weight_bytes + self.kv_read_bytes

    @property
    def intensity(self) -> float:
        """Arithmetic intensity, FLOPs a byte read."""
        return self.flops / self.read_bytes


class Matrices(NamedTuple):
    """Matrices of one shape: how many there are in all layers."""

    number: float
    inputs: int
    outputs: int


def experts_read(config: ModelConfig, rows: float) -> float:
    """How many experts of each mixture a pass of `rows` rows reads; 0 in a model without them.

    One row reads the a of E experts that it uses. For k rows it is the number of different experts
    that is to be expected if every row were routed to each expert alike, and independently of other
    rows: E (1 - (1 - a/E)^k), which for the rows of a prefill is all of them. Rows of one text
    share experts more often than that, so a pass of a few rows may read less.
    """
    if config.experts is None:
        return 0
    count, used = config.experts.count, config.experts.used
    return count - (count - used) * (1 - used / count) ** (rows - 1)


def layer_matrices(config: ModelConfig, experts: float) -> list[Matrices]:
    """The matrices of all layers. experts: so many of each mixture."""
    hidden, ffn = config.hidden_size, config.intermediate_size
    queries, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    sparse = len(config.experts.layers) if config.experts else 0
    found = [
        Matrices(config.layers, hidden, queries),
        Matrices(2 * config.layers, hidden, kv),
        Matrices(config.layers, queries, hidden),
        Matrices(2 * (config.layers - sparse), hidden, ffn),
        Matrices(config.layers - sparse, ffn, hidden),
    ]
    if config.experts:
        found += [
            Matrices(sparse, hidden, config.experts.count),  # routers
            Matrices(2 * sparse * experts, hidden, config.experts.size),
            Matrices(sparse * experts, config.experts.size, hidden),
        ]
    return found


def matrix_parameters(config: ModelConfig, experts: float | None = None) -> dict[str, float]:
    """Weights of all layers' matrices, of the head, and of the embedding table.

    experts: count so many experts of each mixture; None for all.
    """
    if experts is None:
        experts = config.experts.count if config.experts else 0
    layers = sum(one.number * one.inputs * one.outputs for one in layer_matrices(config, experts))
    table = config.vocab_size * config.hidden_size
    return {"layers": layers, "head": table, "embedding": table}


def vector_parameters(config: ModelConfig) -> int:
    """Norm weights and biases: few, but counted."""
    queries, kv = config.heads * config.head_dim, config.kv_heads * config.head_dim
    a_layer = 2 * config.hidden_size * (config.pre_norms + config.post_norms)
    a_layer += (queries + 2 * kv) * config.attention_bias
    a_layer += config.hidden_size * config.output_bias
    a_layer += (2 * config.intermediate_size + config.hidden_size) * config.mlp_bias
    a_layer += (queries + kv if config.qk_norm_whole else 2 * config.head_dim) * config.qk_norm
    return a_layer * config.layers + config.hidden_size


def router_parameters(config: ModelConfig) -> int:
    """Weights of all routers of mixtures of experts."""
    experts = config.experts
    return len(experts.layers) * experts.count * config.hidden_size if experts else 0


def parameters(config: ModelConfig, experts: float | None = None) -> float:
    """All parameters, a tied table counted once. experts: as `matrix_parameters` takes it."""
    parts = matrix_parameters(config, experts)
    total = parts["layers"] + parts["head"] + vector_parameters(config)
    return total if config.tied_head else total + parts["embedding"]


def weight_bytes(config: ModelConfig, dtype: str = "float32") -> float:
    """Bytes of all weights in memory."""
    return parameters(config) * ELEMENT_BYTES[dtype]


def _read_parameters(config: ModelConfig, rows: float) -> float:
    """Weights that a pass reads (`experts_read`), without what it looks up in an untied table."""
    table = 0 if config.tied_head else matrix_parameters(config)["embedding"]
    return parameters(config, experts_read(config, rows)) - table


def weight_read_bytes(config: ModelConfig, rows: int, dtype: str = "float32") -> float:
    """Bytes of weights that a pass reads. An untied embedding table counts one row a token.

    Of a mixture's experts it counts those that so many rows may be expected to use
    (`experts_read`).
    """
    looked_up = 0 if config.tied_head else rows * config.hidden_size
    return (_read_parameters(config, rows) + looked_up) * ELEMENT_BYTES[dtype]


def _activation_elements(config: ModelConfig, rows: int, logits: int) -> float:
    """Elements written by matrix products, each read once by the next."""
    matrices = layer_matrices(config, experts_read(config, 1))
    return rows * sum(one.number * one.outputs for one in matrices) + logits * config.vocab_size


def positions_read(config: ModelConfig, before: int) -> float:
    """How many of the `before` tokens in the cache new rows read, as a mean over the layers: all,
    but in a layer with a window only those that the first new row sees."""
    windows = [config.window_of(layer) for layer in range(config.layers)]
    read = [before if w is None else min(before, w - 1) for w in windows]
    return sum(read) / config.layers


def _seen(window: int | None, before: int, new: int) -> float:
    """Positions that `new` rows after `before` others see in a layer, their own included."""
    every = new * before + new * (new + 1) / 2
    if window is None:
        return every
    # Row r would see before + r + 1 positions; what is beyond the window, it does not.
    beyond = max(0, before + new - window)
    first = max(0, before - window)  # beyond it already before the first row
    return every - (beyond * (beyond + 1) - first * (first + 1)) / 2


def pass_cost(
    config: ModelConfig,
    spans: Sequence[tuple[int, int]],
    logits: int,
    dtype: str = "float32",
    kv_dtype: str | None = None,
    count_masked: bool = False,
) -> Cost:
    """Cost of one forward pass over spans of (tokens already in the cache, new rows).

    logits: how many rows need logits. count_masked: count attention also for the positions that a
    causal mask hides, as torch's counter does. A limit counts only the positions that rows see.
    """
    each = Counter(spans)  # many sequences are alike, and so are many layers
    rows = sum(count * new for (_, new), count in each.items())
    parts = matrix_parameters(config, experts_read(config, 1))
    if count_masked:
        seen = float(sum(new * (before + new) for before, new in spans)) * config.layers
    else:
        windows = Counter(map(config.window_of, range(config.layers)))
        seen = sum(
            layers * count * _seen(window, *span)
            for window, layers in windows.items()
            for span, count in each.items()
        )
    a_token = config.kv_bytes_per_token(ELEMENT_BYTES[kv_dtype or dtype])
    return Cost(
        weight_bytes=weight_read_bytes(config, rows, dtype),
        kv_read_bytes=a_token * sum(n * positions_read(config, b) for (b, _), n in each.items()),
        kv_write_bytes=rows * a_token,
        activation_bytes=_activation_elements(config, rows, logits) * ELEMENT_BYTES[dtype],
        matrix_flops=2.0 * (rows * parts["layers"] + logits * parts["head"]),
        attention_flops=4.0 * config.heads * config.head_dim * seen,
        dtype=dtype,
    )


def prefill_cost(config: ModelConfig, tokens: int, batch: int = 1, dtype: str = "float32") -> Cost:
    """Cost of reading `batch` prompts of `tokens`, logits of the last row of each."""
    return pass_cost(config, [(0, tokens)] * batch, logits=batch, dtype=dtype)


def decode_cost(config: ModelConfig, context: int, batch: int = 1, dtype: str = "float32") -> Cost:
    """Cost of one decode step of `batch` sequences of `context` tokens each."""
    return pass_cost(config, [(context, 1)] * batch, logits=batch, dtype=dtype)


def with_weights(cost: Cost, nbytes: float) -> Cost:
    """The same pass over weights that take `nbytes`: a quantized model's ledger."""
    return replace(cost, weight_bytes=nbytes)


def bytes_of_rows(config: ModelConfig, nbytes: float, rows: float) -> float:
    """Bytes of weights that a pass of `rows` rows reads, where a pass of one row reads `nbytes`.

    The same, but for mixtures of experts: more rows use more of them. There it is as much more as
    `experts_read` says, as if every matrix had as many bits a weight.
    """
    if config.experts is None or rows == 1:
        return nbytes
    return nbytes * _read_parameters(config, rows) / _read_parameters(config, 1)


def with_kv(cost: Cost, read: float, written: float) -> Cost:
    """The same pass over a cache of which so many bytes are read and written."""
    return replace(cost, kv_read_bytes=read, kv_write_bytes=written)


def step_cost(
    config: ModelConfig,
    context: int,
    batch: int = 1,
    *,
    dtype: str = "float32",
    weight_bytes: float | None = None,
    kv_bytes_per_token: float | None = None,
) -> Cost:
    """Cost of one decode step of `batch` sequences of `context` tokens each, computed in `dtype`.

    weight_bytes: what the weights really take in a step of one sequence
    (`labkit.model.weights.read_bytes`); a batch reads more of a mixture (`bytes_of_rows`).
    kv_bytes_per_token: what a token really takes in the cache. Where one is not given, it follows
    from the config and `dtype`.
    """
    cost = decode_cost(config, context, batch, dtype)
    if weight_bytes is not None:
        cost = with_weights(cost, bytes_of_rows(config, weight_bytes, batch))
    if kv_bytes_per_token is not None:
        read = batch * positions_read(config, context)
        cost = with_kv(cost, read * kv_bytes_per_token, batch * kv_bytes_per_token)
    return cost
