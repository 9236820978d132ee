"""The decode step in shapes that never change: for a compiler, or for a CUDA graph."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labkit.base.device import kind
from labkit.errors import DeviceError, LabkitError
from labkit.model.cache.static import StaticCache, StaticStore
from labkit.model.cache.table import Cache, tensors_of
from labkit.model.config import ModelConfig
from labkit.model.decoder import Decoder
from labkit.model.rope import check_context
from labkit.model.rows import Rows

Step = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
_ROUTED = (
    "which experts a step of a mixture reads is known only when it runs, and a fixed graph cannot "
    "leave the others out. Choose another variant."
)


class StaticShapes(nn.Module):
    """Decodes one row with tensors whose shapes never change, so that a compiler sees one graph.

    Attention reads the whole capacity of the cache and masks what is not filled yet. A growing
    shape would read less, so choose a capacity no larger than needed. Passes of other shapes run on
    the plain decoder.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.step: Step = self._step

    @property
    def config(self) -> ModelConfig:
        return self.decoder.config

    def new_cache(self, slots: int, capacity: int) -> StaticCache:
        """A static cache. Every step attends over its whole capacity."""
        return self.decoder.new_cache(slots, capacity)

    @torch.inference_mode()
    def forward(self, rows: Rows, cache: Cache) -> Tensor:
        """Logits of the wanted rows, (wanted, vocab) float32."""
        store = tensors_of(cache, self.decoder.cache_shape)
        if not isinstance(store, StaticStore) or not self._is_step(rows):
            logits: Tensor = self.decoder(rows, cache)
            return logits
        check_context(self.config.rope_scaling, rows.at[0] + 1)
        cache.reserve(rows)
        keys, values = store.tensors(rows.spans[0].slot)
        moved = rows.to(self.decoder.device)
        return self.step(moved.tokens, moved.positions, keys, values)

    def _is_step(self, rows: Rows) -> bool:
        """Whether the pass is a single token, as `_step` needs it."""
        one = len(rows) == 1 and len(rows.asked) == 1 and not rows.embedded
        return one and self.config.sliding_window is None

    def _step(self, token: Tensor, position: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """token, position (1,); keys, values (layers, kv_heads, capacity, head_dim), written to."""
        decoder = self.decoder
        mask = (torch.arange(keys.shape[2], device=keys.device) <= position)[None]
        rope = decoder.rope(position)
        x = decoder.table(token)
        for i, layer in enumerate(decoder.layers):
            attention: Any = layer.self_attn
            queries, key, value = attention.project(layer.input_layernorm(x), *rope)  # type: ignore[operator]
            keys[i].index_copy_(1, position, key.transpose(0, 1))
            values[i].index_copy_(1, position, value.transpose(0, 1))
            mixed = _attend(queries, keys[i], values[i], mask, self.config.attention_multiplier)
            x = layer.after_attention(x, attention.o_proj(mixed))  # type: ignore[operator]
        return decoder.head(x)


def _attend(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float | None
) -> Tensor:
    """One row's grouped-query attention over all of a cache, (1, heads * head_dim)."""
    kv_heads, _, head_dim = keys.shape
    grouped = queries.view(1, kv_heads, -1, head_dim)
    out = F.scaled_dot_product_attention(
        grouped, keys[None], values[None], attn_mask=mask, scale=scale
    )
    return out.reshape(1, -1)


class CompilerError(LabkitError):
    """torch.compile cannot build code here."""


def compile_step(decoder: Decoder, freeze: bool = True) -> StaticShapes:
    """torch.compile over the whole decode step: operations fused, Python gone.

    The first step compiles, which takes a minute or so; `freeze` lets the compiler take weights as
    constants and lay them out for its kernels. Raises CompilerError on a CPU without a compiler,
    and for a mixture of experts.
    """
    if decoder.config.experts:
        raise CompilerError(f"torch.compile is not used: {_ROUTED}")
    cpu = kind(decoder.device) == "cpu"
    if cpu and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise CompilerError("torch.compile needs a C++ compiler on a CPU: install g++ or clang.")
    compiled = StaticShapes(decoder)
    options: dict[str, Any] = {"freezing": freeze} if cpu else {}
    compiled.step = torch.compile(compiled._step, dynamic=False, fullgraph=True, options=options)
    return compiled


def first_step_seconds(compiled: StaticShapes, capacity: int, fresh: bool = False) -> float:
    """Seconds of the first step, nearly all of them compile time.

    fresh: compile again, even where torch has stored the code of an earlier run. Raises
    CompilerError where the compiler cannot build the step (without Python's headers, for example).
    """
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.utils import fresh_cache

    cache = compiled.new_cache(1, capacity)
    start = time.perf_counter()
    try:
        with fresh_cache() if fresh else nullcontext():
            compiled(Rows.decode({0: (1, 0)}), cache)
    except TorchDynamoException as error:
        said = next((line for line in str(error).splitlines() if line.strip()), "no message")
        raise CompilerError(f"torch.compile could not build the step: {said[:300]}") from error
    return time.perf_counter() - start


class CapturedStep:
    """A decode step recorded once as a CUDA graph and replayed: one launch for all its kernels.

    A graph reads its tensors at fixed addresses. So the token and its position are copied into
    tensors of the graph, and a cache at another address needs a new graph. Only the latest graph is
    kept.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._bound: tuple[tuple[int, ...], ...] = ()

    def __call__(self, token: Tensor, position: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """token, position (1,); keys, values (layers, kv_heads, capacity, head_dim), written to."""
        bound = tuple((t.data_ptr(), *t.shape, *t.stride()) for t in (keys, values))
        if bound != self._bound:
            self._capture(token, position, keys, values)
            self._bound = bound
        self._token.copy_(token)
        self._position.copy_(position)
        self._graph.replay()
        return self._logits.clone()  # the next replay overwrites self._logits

    def _capture(self, token: Tensor, position: Tensor, keys: Tensor, values: Tensor) -> None:
        """Record the step. Warm-up writes to the cache; the first replay writes the same again."""
        self._token, self._position = token.clone(), position.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries allocate on first use, which cannot be recorded
            for _ in range(3):
                self._step(self._token, self._position, keys, values)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = self._step(self._token, self._position, keys, values)


def capture_step(decoder: Decoder) -> StaticShapes:
    """The decode step as a CUDA graph: no kernel is fused, but none waits for Python to launch it.

    The first step captures the graph. A step with another cache captures it again: use one cache.
    Raises DeviceError where the model is not on an NVIDIA GPU, and for a mixture of experts.
    """
    if kind(decoder.device) != "cuda":
        raise DeviceError(
            f"CUDA graphs need an NVIDIA GPU, and this model is on {decoder.device}: load it with "
            "device cuda, or leave the graph out."
        )
    if decoder.config.experts:
        raise DeviceError(f"a CUDA graph is not used: {_ROUTED}")
    captured = StaticShapes(decoder)
    captured.step = CapturedStep(captured._step)
    return captured


def payback_tokens(set_up_seconds: float, before: float, after: float) -> float:
    """Tokens until a set-up has paid for itself; inf if never.

    before, after: seconds a token without and with the set-up.
    """
    return set_up_seconds / (before - after) if after < before else float("inf")
