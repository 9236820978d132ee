"""What a sliding window costs in answers, judged only where it has dropped tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from labkit.model.cache.table import Cache
from labkit.model.cache.window import SlidingWindowCache
from labkit.model.decoder import Decoder
from labkit.model.rows import Rows
from labkit.quality.divergence import Divergence, divergence
from labkit.studies.kv_cache_variants import SINKS, slides_from
from labkit.timing.statistics import Ratio, interval

_BLOCK = 16  # neighbouring positions are alike: an interval takes them as one


def forgetful(decoder: Decoder, ids: Sequence[int], window: int) -> dict[str, Any] | None:
    """The window's answers against the full cache's, teacher-forced on a text.

    Only positions count at which the window has dropped a token; None where they are too few for an
    interval. As the `quality` of a finding.
    """
    config, dtype, device = decoder.config, decoder.dtype, decoder.device

    def logits(cache: Cache, ids: Sequence[int]) -> Tensor:
        return decoder(Rows.prefill(ids, all_logits=True), cache)

    start = slides_from(window)
    blocks = (len(ids) - 1 - start) // _BLOCK
    if blocks < 2:
        return None
    full = partial(logits, decoder.new_cache(1, len(ids)))
    narrow = partial(logits, SlidingWindowCache(config, window, SINKS, 1, dtype, device))
    late = _cut(divergence([ids], full, narrow), slice(start, start + blocks * _BLOCK))
    ratio = perplexity_ratio(late)
    between = {"perplexity_ratio_low": ratio.low, "perplexity_ratio_high": ratio.high}
    return late.quality() | between | {"lossless": False}


def _cut(found: Divergence, positions: slice) -> Divergence:
    """Some positions of it."""
    return Divergence(
        found.kl[positions],
        found.same_top[positions],
        found.baseline_loss[positions],
        found.variant_loss[positions],
    )


def perplexity_ratio(found: Divergence) -> Ratio:
    """The variant's perplexity over the baseline's, with its 95 % interval over blocks of text."""
    apart = (found.variant_loss - found.baseline_loss).reshape(-1, _BLOCK)
    return interval(np.exp(apart.mean(1)))
