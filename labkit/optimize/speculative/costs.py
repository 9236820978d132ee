"""What extra rows cost: r(k) = T(k rows) / T(1 row), measured, and as the limit has it.

The papers take r to be 1 (Leviathan et al., 2211.17192, section 3.4): true where arithmetic is
idle while weights are read, and false on few cores.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from labkit.errors import ParameterError
from labkit.limits.cost import pass_cost, with_weights
from labkit.limits.hardware import Hardware
from labkit.limits.roofline import limit
from labkit.model.cache import KVCache
from labkit.model.config import ModelConfig
from labkit.model.generate import Forward, check_lengths, generate
from labkit.optimize.speculative.draft import Proposal
from labkit.optimize.speculative.target import Target

DEFAULT_KS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
_PLAIN_PASSES = 3  # of one row, one after another, of which the last counts


@dataclass(frozen=True)
class RowCosts:
    """T(1) in seconds and r(1), r(2), ... up to the most rows of a pass."""

    seconds: float
    relative: tuple[float, ...]
    context: int = 0

    def __post_init__(self) -> None:
        if not self.relative or min(self.relative) <= 0:
            raise ParameterError(f"costs of rows must be positive: {self.relative}.")

    @property
    def most(self) -> int:
        """Rows of the largest pass that is known."""
        return len(self.relative)

    def r(self, rows: int) -> float:
        """Time of a pass of `rows`, in passes of one row."""
        return self.relative[rows - 1]


def filled(seconds: float, found: dict[int, float], context: int = 0) -> RowCosts:
    """Costs at every number of rows, from those in `found` (1 among them), in straight lines."""
    ks = sorted(found)
    between = np.interp(range(1, ks[-1] + 1), ks, [found[k] for k in ks])
    return RowCosts(seconds, tuple(float(value) for value in between), context)


def free_rows(most: int = 16) -> RowCosts:
    """The papers' assumption: extra rows cost nothing."""
    return RowCosts(1.0, (1.0,) * most)


def row_costs(
    decoder: Forward,
    ks: Sequence[int] = DEFAULT_KS,
    context: int = 512,
    rounds: int = 25,
    seed: int = 0,
    text: Sequence[int] = (),
) -> RowCosts:
    """Measure passes of k rows after a context, as verifying does them.

    Every round times all of `ks` in turn, in changing order, and gives one ratio to its own single
    row; r(k) is the median over rounds. A single row is timed as plain decoding has it, after
    others of its kind: after a larger pass it takes some 4 % longer. The rows are the target's own
    continuation, each round from another place, right up to a random one: where the likeliest token
    is found by screening, a right row costs what a row after a wrong one does not. text: the
    context, filled up with random tokens where it does not suffice. Raises ModelError where it does
    not fit the model's context.
    """
    ks = sorted({1, *ks})
    check_lengths(decoder.config, context, ks[-1])
    rng = np.random.default_rng(seed)
    last = min(context + rounds, decoder.config.max_positions - ks[-1])
    missing = max(0, context - len(text))
    random = rng.integers(decoder.config.vocab_size, size=missing).tolist()
    cache = decoder.new_cache(1, last + ks[-1])
    target = Target(decoder)
    prompt = [*text[:context], *random]
    said = generate(decoder, prompt, last + ks[-1] - context, cache=cache)
    tokens = [*prompt, *said]
    taken: dict[int, list[float]] = {k: [] for k in ks}
    for number in range(rounds + 1):  # the first warms up
        start = max(last - number, context)
        cache.truncate(0, start)
        for k in rng.permutation(ks).tolist():
            rows = tokens[start : start + k]
            if (right := int(rng.integers(1, k + 1))) < k:
                rows[right] = (rows[right] + 1) % decoder.config.vocab_size
            for _ in range(_PLAIN_PASSES if k == 1 else 1):
                spent = _timed_pass(target, cache, rows)
            if number:
                taken[k].append(spent)
    ratios = {k: float(np.median(np.divide(taken[k], taken[1]))) for k in ks}
    return filled(float(np.median(taken[1])), ratios, context)


def _timed_pass(target: Target, cache: KVCache, tokens: Sequence[int]) -> float:
    start = cache.length(0)
    began = time.perf_counter()
    target.verify(tokens[0], Proposal(list(tokens[1:])), cache)
    spent = time.perf_counter() - began
    cache.truncate(0, start)
    return spent


def limit_costs(
    config: ModelConfig,
    hardware: Hardware,
    ks: Sequence[int] = DEFAULT_KS,
    context: int = 512,
    dtype: str = "float32",
    arithmetic: float = 1.0,
    weight_bytes: float | None = None,
) -> RowCosts:
    """r(k) at the limit, for this machine or one with `arithmetic` times its matrix rate.

    weight_bytes: what the weights really take, where they are quantized.
    """
    faster = {name: replace(rate, best=rate.best * arithmetic, median=rate.median * arithmetic)
              for name, rate in hardware.matrix.items()}  # fmt: skip
    machine = replace(hardware, matrix=faster)
    costs = {k: pass_cost(config, [(context, k)], k, dtype) for k in {1, *ks}}
    if weight_bytes is not None:
        costs = {k: with_weights(cost, weight_bytes) for k, cost in costs.items()}
    times = {k: limit(cost, machine).seconds for k, cost in costs.items()}
    return filled(times[1], {k: spent / times[1] for k, spent in times.items()}, context)
