"""Graph rewriting: the same mathematics in fewer, or better, operations.

TensorRT-LLM and torch.compile rewrite the whole graph at once. Here each rewrite is a function of
its own, so that its gain can be measured alone and several can be combined. Every function leaves
the decoder it takes as it is, and returns another with the same forward contract.
"""

from __future__ import annotations

from labkit.optimize.graph_rewriting.rewrites import (
    MergedAttention,
    MergedSwiGLU,
    fold_norms,
    merge_projections,
    shared_copy,
    tabulate_rope,
)
from labkit.optimize.graph_rewriting.static import (
    CapturedStep,
    CompilerError,
    StaticShapes,
    capture_step,
    compile_step,
    first_step_seconds,
    payback_tokens,
)

__all__ = [
    "CapturedStep",
    "CompilerError",
    "MergedAttention",
    "MergedSwiGLU",
    "StaticShapes",
    "capture_step",
    "compile_step",
    "first_step_seconds",
    "fold_norms",
    "merge_projections",
    "payback_tokens",
    "shared_copy",
    "tabulate_rope",
]
