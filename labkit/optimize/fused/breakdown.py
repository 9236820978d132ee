"""Where the fused decoder's token goes, measured by leaving stages of the pass out."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from labkit.model.rows import Rows
from labkit.optimize.fused.decoder import SKIP, FusedCache, FusedDecoder

# What is left out in each timing of a pass.
_LEFT_OUT = {
    "whole": (),
    "attention": ("attention",),
    "head": ("head",),
    "products": ("products",),
    "norms and quantization": ("rest",),
    "everything": tuple(SKIP),
}


def pass_seconds(decoder: FusedDecoder, cache: FusedCache, rows: Rows, skip: int = 0) -> float:
    """Seconds of one pass over what slot 0 held before it; the rows are taken back."""
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
    """Median seconds of a pass of `counts` rows after the rest of `ids`, timed in turns: T(k)."""
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
    """Seconds of one decode step after ids[:-1], by what they go to; they add up to the whole.

    A stage's time is what a pass without it saves; `barriers and calls` is what a pass of empty
    stages takes; what overlaps between stages is left as `overlap`, which may be negative.
    """
    cache = decoder.new_cache(1, len(ids))
    decoder(Rows.prefill(ids[:-1]), cache)
    rows = Rows.prefill(ids[-1:], 0, len(ids) - 1)
    taken: dict[str, list[float]] = {name: [] for name in _LEFT_OUT}
    for _ in range(repeats):
        for name, stages in _LEFT_OUT.items():
            taken[name].append(pass_seconds(decoder, cache, rows, sum(SKIP[s] for s in stages)))
    median = {name: statistics.median(seconds) for name, seconds in taken.items()}
    whole = median["whole"]
    saved = {
        "layer products": whole - median["products"],
        "head": whole - median["head"],
        "attention": whole - median["attention"],
        "norms and quantization": whole - median["norms and quantization"],
    }
    # Leaving the products out leaves the head's out too: count it once.
    saved["layer products"] -= saved["head"]
    found = {name: max(seconds, 0.0) for name, seconds in saved.items()}
    found["barriers and calls"] = median["everything"]
    found["overlap"] = whole - sum(found.values())
    return found
