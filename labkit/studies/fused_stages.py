"""Where the time of the fused decoder's pass goes, measured by leaving stages out.

The decoder runs by itself in this process: a decode step, the same step without some of its stages,
and passes of more rows, all interleaved. So every number here is a ratio to the step of the same
rounds. A pass without a stage gives wrong tokens, which are not used.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from labkit.model.cache.table import Cache
from labkit.model.rows import Part, Rows
from labkit.optimize.fused import SKIP, FusedDecoder
from labkit.timing.compare import Comparison, Variant
from labkit.timing.statistics import LEVEL
from labkit.timing.trace import Trace

STEP = "decode step"
# Stages that each variant of the step leaves out.
_LEFT_OUT: dict[str, tuple[str, ...]] = {
    "without attention": ("attention",),
    "without the head": ("head",),
    "without products": ("products",),
    "without norms and quantization": ("rest",),
    "without any stage": tuple(SKIP),
}
REST = "saved by no single stage"
PRODUCTS = ("layer products", "head")  # the stages that read the weights
# Seconds of passes -> seconds of a stage. A pass without products leaves out the head's too.
_STAGES: dict[str, Callable[[Mapping[str, np.ndarray]], np.ndarray]] = {
    "layer products": lambda t: t["without the head"] - t["without products"],
    "head": lambda t: t[STEP] - t["without the head"],
    "attention": lambda t: t[STEP] - t["without attention"],
    "norms and quantization": lambda t: t[STEP] - t["without norms and quantization"],
    "barriers and the call": lambda t: t["without any stage"],
}


class Share(NamedTuple):
    """A share of a decode step with its 95 % interval; it may be negative."""

    value: float
    low: float
    high: float

    @property
    def measurable(self) -> bool:
        """Whether the interval lies above 0: a stage cannot take less than no time."""
        return self.low > 0


def rows_name(count: int) -> str:
    """The name of a pass of `count` rows."""
    return f"{count} rows" if count > 1 else STEP


def passes(
    decoder: FusedDecoder,
    ids: Sequence[int],
    counts: Sequence[int],
    repeats: int = 8,
) -> dict[str, Variant]:
    """Variants for `compare`: a decode step, the step without each stage, and passes of more rows.

    Every pass follows the same context: `ids` without its last max(1, *counts) tokens. A turn is
    `repeats` passes after a first one that does not count.
    """
    context = len(ids) - max(1, *counts)
    cache = filled(decoder, ids[:context], len(ids))
    step = Part(0, context, ids[context : context + 1])
    found = {STEP: repeated(decoder, cache, step, repeats)}
    for name, stages in _LEFT_OUT.items():
        skip = sum(SKIP[stage] for stage in stages)
        found[name] = repeated(decoder, cache, step, repeats, skip)
    for count in sorted(set(counts) - {1}):
        part = Part(0, context, ids[context : context + count], count)
        found[rows_name(count)] = repeated(decoder, cache, part, repeats)
    return found


def filled(decoder: FusedDecoder, ids: Sequence[int], capacity: int) -> Cache:
    """A cache that holds these tokens in its one slot."""
    cache = decoder.new_cache(1, capacity)
    decoder(Rows.prefill(ids), cache)
    return cache


def repeated(
    decoder: FusedDecoder, cache: Cache, part: Part, repeats: int, skip: int = 0
) -> Variant:
    """A variant that passes a part again and again; its rows are dropped from the cache each time.

    skip: the sum of the SKIP values of the stages to leave out.
    """

    def run(_: int) -> Trace:
        times = []
        decoder.skip = skip
        try:
            due = time.perf_counter()
            for _ in range(repeats + 1):
                decoder.greedy([part], cache)
                times.append(time.perf_counter())
                cache.truncate(part.slot, part.start)
        finally:
            decoder.skip = 0
            cache.truncate(part.slot, part.start)
        return Trace(due, tuple(times), part.start)

    return run


def shares(comparison: Comparison) -> dict[str, Share]:
    """The share of a decode step that each stage takes: the time that a step without it saves.

    `barriers and the call` is a pass of empty stages. `REST` is what is left: time that leaving out
    any one stage does not save; negative where either of two stages saves the same time.
    """
    times = {name: np.asarray(comparison.values(name)) for name in (STEP, *_LEFT_OUT)}
    each = {name: stage(times) / times[STEP] for name, stage in _STAGES.items()}
    each[REST] = 1 - np.sum(list(each.values()), axis=0)
    return {name: share_of(values) for name, values in each.items()}


def share_of(values: np.ndarray) -> Share:
    """The mean of paired differences with its 95 % interval (Student's t): logarithms of
    differences, which may be negative, there are none."""
    middle, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    reach = float(stats.t.ppf(1 - LEVEL / 2, len(values) - 1)) * error
    return Share(middle, middle - reach, middle + reach)


def summed(shares: Mapping[str, Share]) -> float:
    """The sum of the measurable stages, as shares of a step; above 1 where stages overlap."""
    return sum(one.value for name, one in shares.items() if one.measurable and name != REST)
