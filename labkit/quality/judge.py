"""Several variants judged against one reference, text by text and chunk by chunk.

The reference computes a chunk's logits once, whatever the number of variants, and no more than a
chunk of them is ever in memory: a vocabulary of 50,000 makes 200 kB of every row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from labkit.errors import ParameterError
from labkit.model.generate import Forward
from labkit.model.rows import Rows
from labkit.quality.divergence import Divergence, between


def chunked_logits(
    forward: Forward, ids: Sequence[int], rows: int = 256, cache: Any = None
) -> Iterator[Tensor]:
    """Logits (up to `rows`, vocab) of every position of a text, chunk after chunk.

    Each chunk is one pass over a cache (of the forward's own kind, if none is given) that holds
    what came before.
    """
    held = forward.new_cache(1, len(ids)) if cache is None else cache
    for start in range(0, len(ids), rows):
        part = ids[start : start + rows]
        yield forward(Rows.prefill(part, start=start, all_logits=True), held)


@torch.inference_mode()
def judge(
    reference: Forward,
    variants: Mapping[str, Forward],
    texts: Sequence[Sequence[int]],
    rows: int = 256,
    label: str = "judging",
) -> dict[str, Divergence]:
    """How each variant's distributions differ from the reference's on texts of token ids.

    All of them read the same chunks of `rows` positions. Raises ParameterError where there is
    nothing to judge.
    """
    if not texts or not variants or min(map(len, texts)) < 2 or rows < 1:
        raise ParameterError("to judge takes a variant, texts of two tokens and chunks of a row.")
    parts: dict[str, list[Divergence]] = {name: [] for name in variants}
    for ids in tqdm(texts, desc=label, unit="text", leave=False):
        streams = [chunked_logits(forward, ids, rows) for forward in variants.values()]
        expected = chunked_logits(reference, ids, rows)
        for k, (baseline, *found) in enumerate(zip(expected, *streams, strict=True)):
            following = ids[k * rows + 1 : (k + 1) * rows + 1]
            for name, logits in zip(variants, found, strict=True):
                parts[name].append(between(baseline, logits, following))
    return {name: Divergence.pooled(found) for name, found in parts.items()}
