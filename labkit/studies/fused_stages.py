"""Where the time of the fused decoder's pass goes, measured by leaving stages out.

The decoder runs by itself in this process. A pass without a stage gives wrong numbers, which are
not used.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

from labkit.model.cache.table import Cache
from labkit.model.rows import Rows
from labkit.optimize.fused import SKIP, FusedDecoder

# Stages that each timing of a pass leaves out.
_LEFT_OUT = {
    "whole": (),
    "attention": ("attention",),
    "head": ("head",),
    "products": ("products",),
    "norms and quantization": ("rest",),
    "everything": tuple(SKIP),
}
CALL, REST = "barriers and calls", "overlap"


def pass_seconds(decoder: FusedDecoder, cache: Cache, rows: Rows, skip: int = 0) -> float:
    """Seconds of one pass of rows of one slot; the rows are dropped from the cache afterwards.

    skip: the sum of the SKIP values of the stages to leave out.
    """
    span = rows.spans[0]
    decoder.skip = skip
    try:
        start = time.perf_counter()
        decoder(rows, cache)
        return time.perf_counter() - start
    finally:
        decoder.skip = 0
        cache.truncate(span.slot, span.start)


def row_seconds(
    decoder: FusedDecoder, ids: Sequence[int], counts: Sequence[int], repeats: int = 30
) -> dict[int, float]:
    """Median seconds of passes of `counts` rows, the sizes interleaved: T(k).

    Every pass follows the same context: `ids` without its last max(counts) tokens.
    """
    context = len(ids) - max(counts)
    cache = decoder.new_cache(1, len(ids))
    decoder(Rows.prefill(ids[:context]), cache)
    passes = {k: Rows.prefill(ids[context : context + k], 0, context, True) for k in counts}
    taken: dict[int, list[float]] = {k: [] for k in counts}
    for _ in range(repeats):
        for k, rows in passes.items():
            taken[k].append(pass_seconds(decoder, cache, rows))
    return {k: statistics.median(seconds) for k, seconds in taken.items()}


def stage_seconds(decoder: FusedDecoder, ids: Sequence[int], repeats: int = 40) -> dict[str, float]:
    """Seconds of one decode step after ids[:-1], with all logits, by stage: see `parts`.

    Passes that leave out different stages are interleaved; each time is a median of `repeats`.
    """
    cache = decoder.new_cache(1, len(ids))
    decoder(Rows.prefill(ids[:-1]), cache)
    rows = Rows.prefill(ids[-1:], 0, len(ids) - 1)
    taken: dict[str, list[float]] = {name: [] for name in _LEFT_OUT}
    for _ in range(repeats):
        for name, stages in _LEFT_OUT.items():
            taken[name].append(pass_seconds(decoder, cache, rows, sum(SKIP[s] for s in stages)))
    return parts({name: statistics.median(seconds) for name, seconds in taken.items()})


def parts(median: Mapping[str, float]) -> dict[str, float]:
    """Parts that add up to the whole pass, from the seconds of passes that leave stages out.

    A stage's part is the time that a pass without it saves, at least 0. `barriers and calls` is a
    pass of empty stages. `overlap` is the rest: time that leaving out any one stage does not save.
    It is negative where leaving out either of two stages saves the same time.
    """
    whole = median["whole"]
    saved = {
        "layer products": whole - median["products"],
        "head": whole - median["head"],
        "attention": whole - median["attention"],
        "norms and quantization": whole - median["norms and quantization"],
    }
    # A pass without the products leaves out the head's product too: it is counted once.
    saved["layer products"] -= saved["head"]
    found = {name: max(seconds, 0.0) for name, seconds in saved.items()}
    found[CALL] = median["everything"]
    found[REST] = whole - sum(found.values())
    return found
