"""Compare the answers of several variants with those of one reference, chunk by chunk of a text.

The reference computes each chunk once for all variants. Only one chunk of logits is in memory at a
time: with a vocabulary of 50,000, a row of logits is 200 kB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from labkit.errors import ParameterError
from labkit.model.cache.table import Cache
from labkit.model.forward import Forward
from labkit.model.rows import Rows
from labkit.quality.divergence import Divergence, between


def chunked_logits(
    forward: Forward, ids: Sequence[int], rows: int = 256, cache: Cache | None = None
) -> Iterator[Tensor]:
    """Logits (up to `rows`, vocab) of every position of a text, chunk after chunk.

    Each chunk is one pass of `rows` rows. cache: keeps the chunks before it in slot 0; by default a
    new one of the forward's own kind.
    """
    kept = forward.new_cache(1, len(ids)) if cache is None else cache
    for start in range(0, len(ids), rows):
        part = ids[start : start + rows]
        yield forward(Rows.prefill(part, start=start, all_logits=True), kept)


@torch.inference_mode()
def judge(
    reference: Forward,
    variants: Mapping[str, Forward],
    texts: Sequence[Sequence[int]],
    rows: int = 256,
    label: str = "judging",
) -> dict[str, Divergence]:
    """How the distributions of each variant differ from the reference's on texts of token ids.

    All read the same chunks of `rows` positions. label: names the progress bar. Raises
    ParameterError without a variant, without a text of two tokens or for rows below 1.
    """
    if not texts or not variants or min(map(len, texts)) < 2 or rows < 1:
        raise ParameterError(
            f"{len(variants)} variants, {len(texts)} texts and chunks of {rows} rows were given; "
            "judging needs a variant, texts of at least two tokens each and chunks of a row."
        )
    parts: dict[str, list[Divergence]] = {name: [] for name in variants}
    for ids in tqdm(texts, desc=label, unit="text", leave=False):
        streams = [chunked_logits(forward, ids, rows) for forward in variants.values()]
        expected = chunked_logits(reference, ids, rows)
        for k, (baseline, *found) in enumerate(zip(expected, *streams, strict=True)):
            following = ids[k * rows + 1 : (k + 1) * rows + 1]
            for name, logits in zip(variants, found, strict=True):
                parts[name].append(between(baseline, logits, following))
    return {name: Divergence.pooled(found) for name, found in parts.items()}
