"""The rungs of notebook 03: each rewrite alone, then stacked; and the cost of a token on each.

A rung is the plain decoder after one or more rewrites.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import nn

from labkit.limits.calculator import shapes
from labkit.limits.cost import Cost, decode_cost, step_cost
from labkit.limits.hardware import Hardware
from labkit.limits.roofline import limit
from labkit.model.decoder import Decoder
from labkit.model.weights import read_bytes
from labkit.optimize.graph_rewriting.rewrites import fold_norms, merge_projections, tabulate_rope
from labkit.optimize.graph_rewriting.static import StaticShapes, compile_step, first_step_seconds

Rung = Decoder | StaticShapes

PLAIN, COMPILED, GRAPH = "plain decoder", "compiled step", "CUDA graph"
MERGED, FOLDED, TABLES, STATIC = (
    "merged projections",
    "folded norms",
    "rope tables",
    "static shapes",
)
# Each adds a rewrite to the one before.
STACK = ("merged + folded", "merged + folded + tables", "merged + folded + tables + static")
REWRITES: dict[str, Callable[[Decoder], Rung]] = {
    MERGED: merge_projections,
    FOLDED: fold_norms,
    TABLES: tabulate_rope,
    STATIC: StaticShapes,
}


def alone(decoder: Decoder) -> dict[str, Rung]:
    """Each rewrite of the plain decoder by itself."""
    return {name: rewrite(decoder) for name, rewrite in REWRITES.items()}


def stacked(decoder: Decoder) -> dict[str, Rung]:
    """Two, three and all four rewrites. The stack starts from merged projections, in `alone`."""
    two = fold_norms(merge_projections(decoder))
    three = tabulate_rope(two)
    rungs: tuple[Rung, ...] = (two, three, StaticShapes(three))
    return dict(zip(STACK, rungs, strict=True))


def eager(decoder: Decoder) -> dict[str, Rung]:
    """What torch runs operation by operation: the plain decoder, each rewrite, the stack."""
    return {PLAIN: decoder, **alone(decoder), **stacked(decoder)}


class Compiled(NamedTuple):
    """The compiled step, the seconds that compiling took, and the kernels that it generated."""

    rung: StaticShapes
    seconds: float
    kernels: int


def compiled(decoder: Decoder, capacity: int, fresh: bool = True) -> Compiled:
    """Compile the step for caches of `capacity` tokens.

    fresh: ignore what torch kept from an earlier compilation, so that the measured time is that of
    a first one. Raises CompilerError where this machine cannot compile it; the message says what is
    missing.
    """
    from torch._inductor import metrics

    made = compile_step(decoder)
    before = metrics.generated_kernel_count
    taken = first_step_seconds(made, capacity, fresh)
    return Compiled(made, taken, metrics.generated_kernel_count - before)


def inner(rung: Rung) -> Decoder:
    """The decoder of a rung: itself, or the one that it runs in static shapes."""
    return rung.decoder if isinstance(rung, StaticShapes) else rung


def cost_of(rung: Rung, context: int, capacity: int) -> Cost:
    """The cost of one token after `context` on this rung, counted from its real tensors.

    Static shapes read all `capacity` tokens of the cache, however few of them are filled.
    """
    decoder = inner(rung)
    tokens = capacity - 1 if isinstance(rung, StaticShapes) else context
    dtype = str(decoder.dtype).removeprefix("torch.")
    return step_cost(decoder.config, tokens, dtype=dtype, weight_bytes=read_bytes(decoder))


def matrices(rung: Rung) -> int:
    """Matrix products of one token."""
    return sum(isinstance(module, nn.Linear) for module in inner(rung).modules())


def operations_of(compiled: Compiled) -> int:
    """Operations of a compiled token: its generated kernels, matrix products and attentions.

    The dispatcher does not see the operations inside a compiled step, so they are added up here.
    """
    layers = compiled.rung.config.layers
    return compiled.kernels + matrices(compiled.rung) + layers


def overheads(
    machines: Mapping[str, Hardware], operations_a_layer: float, price: float
) -> list[dict[str, object]]:
    """The overhead of a token's operations over its limit, for each machine and model.

    price: seconds of overhead of one operation, taken for every machine. A mixture of experts has
    other operations a layer, so only dense models are listed. The bytes are bfloat16
    weights and 1,024 tokens of cache. None where they fit a last-level cache of unknown bandwidth:
    then there is no limit.
    """
    dense = {name: shape for name, shape in shapes().items() if not shape.experts}
    costs = {name: decode_cost(shape, 1024, dtype="bfloat16") for name, shape in dense.items()}
    spent = {name: operations_a_layer * shape.layers * price for name, shape in dense.items()}
    return [
        {"machine": name}
        | {
            short: None
            if machine.in_cache(cost.read_bytes)
            else spent[short] / limit(cost, machine).seconds
            for short, cost in costs.items()
        }
        for name, machine in machines.items()
    ]
