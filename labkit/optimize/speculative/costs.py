"""What extra rows cost: r(k) = T(k rows) / T(1 row), measured, and at the limit.

The papers assume r = 1 (Leviathan et al., 2211.17192, section 3.4). That is true where arithmetic
waits for the weights to be read, and where a decoder does nothing else for each row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from labkit.engine.generate import generate
from labkit.engine.passes import Passes
from labkit.engine.row_costs import RowCosts, filled
from labkit.engine.sequence import check_lengths
from labkit.errors import ParameterError
from labkit.limits.cost import Cost
from labkit.limits.hardware import Hardware
from labkit.limits.roofline import least_seconds
from labkit.model.forward import Forward
from labkit.model.rows import Part
from labkit.timing.statistics import geometric_mean, interval

DEFAULT_KS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
_PASSES = 3  # of one size that are timed together, after those that let the machine settle
# Seconds of passes of that size, and the most of them. The machine remembers what ran before: after
# passes of 64 rows, passes of one row took 5.7 ms, and came down to 3.4 ms within fifteen of them
# (2 cores, 86 MB of weights, a last-level cache of 300 MB that others share).
_SETTLE, _SETTLES = 0.06, 16


def row_costs(
    decoder: Forward,
    ks: Sequence[int] = DEFAULT_KS,
    context: int = 512,
    rounds: int = 25,
    text: Sequence[int] = (),
    between: Callable[[], object] | None = None,
) -> RowCosts:
    """Measure passes of k rows after a context, as verification runs them.

    Each round times all of `ks` in a random order and divides by the round's time of one row; r(k)
    is the geometric mean over rounds. Of each size passes run one after another, and the first are
    not timed (_SETTLE). The rows are the target's own output, from another position in each round.
    In most passes a random row is wrong: a decoder that screens for the likeliest token spends more
    on the rows before it than on those after it.

    text: the context; random tokens fill it up. between: runs before every round; with other work
    there, the rounds see more states of the machine than they would within two seconds. Raises
    ModelError where the rows do not fit the model's context, and ParameterError below two rounds,
    which give no interval.
    """
    if rounds < 2:
        raise ParameterError(f"{rounds} rounds give no interval; at least 2 are needed.")
    ks = sorted({1, *ks})
    check_lengths(decoder.config, context, ks[-1])
    rng, vocab = np.random.default_rng(0), decoder.config.vocab_size
    last = min(context + rounds, decoder.config.max_positions - ks[-1])
    passes = Passes(decoder, decoder.new_cache(1, last + ks[-1]))
    random = rng.integers(vocab, size=max(0, context - len(text))).tolist()
    tokens = [*text[:context], *random]
    tokens += generate(decoder, tokens[:], last + ks[-1] - context, cache=passes.cache)
    taken: dict[int, list[float]] = {k: [] for k in ks}
    for number in range(rounds + 1):  # the first warms up
        if between is not None:
            between()
        start = max(last - number, context)
        passes.cache.truncate(0, start)
        for k in rng.permutation(ks).tolist():
            spent = _timed(passes, tokens[start : start + k], vocab, rng)
            if number:
                taken[k].append(spent)
    ratios = {k: interval(np.divide(taken[k], taken[1])) for k in ks}
    relative = {k: ratio.value for k, ratio in ratios.items()}
    return filled(geometric_mean(taken[1]), relative, context, ratios)


def _timed(passes: Passes, right: Sequence[int], vocab: int, rng: np.random.Generator) -> float:
    """Seconds of a pass of these rows, the mean of a few; a random row of each may be wrong."""
    settled = 0.0
    for _ in range(_SETTLES):
        settled += _once(passes, right, vocab, rng)
        if settled >= _SETTLE:
            break
    return float(np.mean([_once(passes, right, vocab, rng) for _ in range(_PASSES)]))


def _once(passes: Passes, right: Sequence[int], vocab: int, rng: np.random.Generator) -> float:
    rows, at = list(right), int(rng.integers(1, len(right) + 1))
    if at < len(rows):
        rows[at] = (rows[at] + 1) % vocab
    start = passes.cache.length(0)
    began = time.perf_counter()
    passes.greedy([Part(0, start, rows, len(rows), guesses=True)])
    spent = time.perf_counter() - began
    passes.cache.truncate(0, start)
    return spent


def limit_costs(
    cost_of: Callable[[int], Cost],
    hardware: Hardware,
    ks: Sequence[int] = DEFAULT_KS,
    context: int = 0,
    attention: str = "",
) -> RowCosts:
    """r(k) at the limit of a machine.

    cost_of: the cost of a pass of k rows; its dtype is that of the matrix products. attention: the
    dtype of attention's arithmetic where it is another one. Both run on the same cores, so their
    times add up.
    """
    times = {k: least_seconds(cost_of(k), hardware, attention) for k in {1, *ks}}
    return filled(times[1], {k: spent / times[1] for k, spent in times.items()}, context)
