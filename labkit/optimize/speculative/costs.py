"""What extra rows cost: r(k) = T(k rows) / T(1 row), measured, and at the limit.

The papers assume r = 1 (Leviathan et al., 2211.17192, section 3.4). That is true where arithmetic
waits for the weights to be read, and false on few cores.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from labkit.engine.generate import generate
from labkit.engine.passes import Passes
from labkit.engine.row_costs import RowCosts, filled
from labkit.engine.sequence import check_lengths
from labkit.limits.cost import pass_cost, with_weights
from labkit.limits.hardware import Hardware
from labkit.limits.roofline import limit
from labkit.model.config import ModelConfig
from labkit.model.forward import Forward
from labkit.model.rows import Part

DEFAULT_KS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
_PLAIN_PASSES = 3  # of one row, one after another; the last is timed


def row_costs(
    decoder: Forward,
    ks: Sequence[int] = DEFAULT_KS,
    context: int = 512,
    rounds: int = 25,
    text: Sequence[int] = (),
) -> RowCosts:
    """Measure passes of k rows after a context, as verification runs them.

    Each round times all of `ks` in a random order and divides by the round's time of one row; r(k)
    is the median over rounds. One row is timed after other passes of one row, as in plain decoding:
    after a larger pass it takes some 4 % longer. The rows are the target's own output, from another
    position in each round. In most passes a random row is wrong: a decoder that screens for the
    likeliest token spends more on the rows before it than on those after it. text: the context;
    random tokens fill it up. Raises ModelError where it does not fit the model's context.
    """
    ks = sorted({1, *ks})
    check_lengths(decoder.config, context, ks[-1])
    rng = np.random.default_rng(0)
    last = min(context + rounds, decoder.config.max_positions - ks[-1])
    missing = max(0, context - len(text))
    random = rng.integers(decoder.config.vocab_size, size=missing).tolist()
    cache = decoder.new_cache(1, last + ks[-1])
    passes = Passes(decoder, cache)
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
                spent = _timed_pass(passes, rows)
            if number:
                taken[k].append(spent)
    ratios = {k: float(np.median(np.divide(taken[k], taken[1]))) for k in ks}
    return filled(float(np.median(taken[1])), ratios, context)


def _timed_pass(passes: Passes, tokens: Sequence[int]) -> float:
    start = passes.cache.length(0)
    began = time.perf_counter()
    passes.greedy([Part(0, start, tokens, len(tokens), guesses=True)])
    spent = time.perf_counter() - began
    passes.cache.truncate(0, start)
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
    """r(k) at the limit, for this machine, or for one with `arithmetic` times its matrix rate.

    weight_bytes: the bytes that quantized weights really take.
    """
    faster = {name: replace(rate, best=rate.best * arithmetic, median=rate.median * arithmetic)
              for name, rate in hardware.matrix.items()}  # fmt: skip
    machine = replace(hardware, matrix=faster)
    costs = {k: pass_cost(config, [(context, k)], k, dtype) for k in {1, *ks}}
    if weight_bytes is not None:
        costs = {k: with_weights(cost, weight_bytes) for k, cost in costs.items()}
    times = {k: limit(cost, machine).seconds for k, cost in costs.items()}
    return filled(times[1], {k: spent / times[1] for k, spent in times.items()}, context)
