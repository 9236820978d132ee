"""The rewrites as rungs: each alone, then one on top of the other, and what each must read."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from labkit.limits.cost import Cost, decode_cost, with_weights
from labkit.model.decoder import Decoder
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
STACK = ("merged + folded", "and rope tables", "and static")  # each on top of the one before
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
    """Two, three and all four rewrites; the first rung of the stack is `alone`'s first."""
    two = fold_norms(merge_projections(decoder))
    three = tabulate_rope(two)
    rungs: tuple[Rung, ...] = (two, three, StaticShapes(three))
    return dict(zip(STACK, rungs, strict=True))


class Compiled(NamedTuple):
    """The compiled step, the seconds that compiling took, and how many kernels came out of it."""

    rung: StaticShapes
    seconds: float
    kernels: int


def compiled(decoder: Decoder, capacity: int, fresh: bool = True) -> Compiled:
    """Compile the step for caches of `capacity`; by default as if for the first time here.

    Raises CompilerError where nothing here can compile it; its message says what is missing.
    """
    from torch._inductor import metrics

    made = compile_step(decoder)
    before = metrics.generated_kernel_count
    taken = first_step_seconds(made, capacity, fresh)
    return Compiled(made, taken, metrics.generated_kernel_count - before)


def inner(rung: Rung) -> Decoder:
    """The decoder of a rung: itself, or what it runs in static shapes."""
    return rung.decoder if isinstance(rung, StaticShapes) else rung


def weights_read(decoder: Decoder) -> int:
    """Bytes of weights that one row reads: every tensor once, and one row of an untied table."""
    weights = {id(p): p for p in decoder.parameters()}
    table = decoder.embed_tokens.weight
    if decoder.lm_head.weight is table:
        return sum(p.nbytes for p in weights.values())
    return sum(p.nbytes for p in weights.values()) - table.nbytes + table[0].nbytes


def step_cost(rung: Rung, context: int, capacity: int) -> Cost:
    """What one token after `context` must cost on this rung, counted from its real tensors.

    Static shapes read all of the cache's `capacity`, whatever it holds.
    """
    decoder = inner(rung)
    held = capacity - 1 if isinstance(rung, StaticShapes) else context
    dtype = str(decoder.dtype).removeprefix("torch.")
    return with_weights(decode_cost(decoder.config, held, dtype=dtype), weights_read(decoder))


def matrices(rung: Rung) -> int:
    """Matrix products of one token."""
    return sum(isinstance(module, nn.Linear) for module in inner(rung).modules())


def operations_of(compiled: Compiled) -> int:
    """Pieces of work in a compiled token: its fused kernels, its matrix products, its attentions.

    What a dispatcher sees of a compiled step is not what it runs, so it is counted from the parts.
    """
    layers = compiled.rung.config.layers
    return compiled.kernels + matrices(compiled.rung) + layers
