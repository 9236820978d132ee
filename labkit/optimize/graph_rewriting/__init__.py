"""Graph rewriting: the same mathematics in fewer, or better, operations.

TensorRT-LLM and torch.compile do the like on the whole graph; here each step stands alone, so that
it can be measured alone and stacked. Every function takes an unmodified decoder and returns
another that speaks the same forward contract.
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
