"""Where a token's time goes, measured by leaving parts out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from labkit.model.decoder import Decoder
from labkit.timing.statistics import geometric_mean
from labkit.timing.trace import clock

_TIMED = 15  # repetitions


def matrices_only(decoder: Decoder, rows: int = 1) -> Callable[[], None]:
    """A function that multiplies every weight matrix once by `rows` rows, and does nothing else.

    This is a decode step without norms, rotation, attention, cache, and the Python code between.
    """
    layers = [module for module in decoder.modules() if isinstance(module, nn.Linear)]
    sizes = {layer.in_features for layer in layers}
    inputs = {n: torch.randn(rows, n, dtype=decoder.dtype, device=decoder.device) for n in sizes}

    @torch.inference_mode()
    def work() -> None:
        for layer in layers:
            nn.functional.linear(inputs[layer.in_features], layer.weight)

    return work


class _Counter(TorchDispatchMode):
    """Counts the operations that reach torch's dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def count_operations(work: Callable[[], object]) -> int:
    """How many torch operations `work` dispatches."""
    with _Counter() as counter:
        work()
    return counter.count


@torch.inference_mode()
def operation_seconds(decoder: Decoder, count: int = 200) -> float:
    """Seconds of overhead of one torch operation: its time with next to nothing to do.

    The geometric mean over repetitions of `count` additions of one row of the model's width. On an
    accelerator, where work is queued, it is the time to hand an operation over or to launch it,
    whichever is longer.
    """
    row = torch.zeros(1, decoder.config.hidden_size, dtype=decoder.dtype, device=decoder.device)

    def work() -> None:
        for _ in range(count):
            torch.add(row, row)

    work()
    return geometric_mean([clock(work, decoder.device).ttft for _ in range(_TIMED)]) / count
