"""Compare the answers of several variants with those of one reference, pass by pass.

The reference computes each pass once for all variants. Only the logits of one pass are in memory at
a time: with a vocabulary of 50,000, a row of logits is 200 kB. Short texts share a pass, each in a
slot of its own: an accelerator takes as long for a few rows as for many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from tqdm.auto import tqdm

from labkit.base.device import Device, kind, memory_bytes
from labkit.errors import ParameterError
from labkit.model.cache.table import Cache
from labkit.model.config import ModelConfig
from labkit.model.forward import Forward
from labkit.model.rows import Part, Rows
from labkit.quality.divergence import Divergence, between

ROWS = 256  # of a pass on a CPU: enough for its products, and their logits take 50 MB
_MOST_ROWS = 8192
_COPIES = 8  # of a row's logits in float32, while two decoders are compared
_MEMORY = 1 / 8  # share of an accelerator's memory that they may take


def rows_at_once(config: ModelConfig, device: Device) -> int:
    """How many rows a pass should judge on a device: on an accelerator as many as fit."""
    if kind(device) == "cpu":
        return ROWS
    room = int(_MEMORY * memory_bytes(device) / (_COPIES * 4 * config.vocab_size))
    return min(_MOST_ROWS, max(ROWS, room))


def chunked_logits(
    forward: Forward, ids: Sequence[int], rows: int = ROWS, cache: Cache | None = None
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
    rows: int = ROWS,
    label: str = "judging",
    skip: int = 0,
) -> dict[str, Divergence]:
    """How the distributions of each variant differ from the reference's on texts of token ids.

    All read the same passes of up to `rows` rows. label: names the progress bar. skip: positions at
    the start of each text that are read and not compared. Raises ParameterError without a variant,
    without a text of two tokens more than `skip`, or for rows below 1.
    """
    if not texts or not variants or min(map(len, texts)) < skip + 2 or rows < 1 or skip < 0:
        raise ParameterError(
            f"{len(variants)} variants, {len(texts)} texts and passes of {rows} rows were given; "
            f"judging needs a variant, texts of at least {max(skip, 0) + 2} tokens each and passes "
            "of a row."
        )
    parts: dict[str, list[Divergence]] = {name: [] for name in variants}
    with tqdm(total=len(texts), desc=label, unit="text", leave=False) as bar:
        for group in _groups(texts, rows):
            for name, found in _judged(reference, variants, group, rows, skip).items():
                parts[name] += found
            bar.update(len(group))
    return {name: Divergence.pooled(found) for name, found in parts.items()}


def _groups(texts: Sequence[Sequence[int]], rows: int) -> Iterator[list[Sequence[int]]]:
    """Neighbouring texts that fit a pass together; a text that is longer than a pass is alone."""
    group: list[Sequence[int]] = []
    for ids in texts:
        if group and sum(map(len, group)) + len(ids) > rows:
            yield group
            group = []
        group.append(ids)
    yield group


def _passes(group: Sequence[Sequence[int]], rows: int, skip: int) -> Iterator[list[Part]]:
    """The parts of each pass over a group, a slot for each text; those after `skip` are wanted."""
    for start in range(0, max(map(len, group)), rows):
        yield [
            Part(slot, start, part, max(0, len(part) - max(0, skip - start)))
            for slot, ids in enumerate(group)
            if (part := ids[start : start + rows])
        ]


def _judged(
    reference: Forward,
    variants: Mapping[str, Forward],
    group: Sequence[Sequence[int]],
    rows: int,
    skip: int,
) -> dict[str, list[Divergence]]:
    """The divergence of each variant on each text of a group."""
    capacity = max(map(len, group))
    every = {name: (run, run.new_cache(len(group), capacity)) for name, run in variants.items()}
    own = reference.new_cache(len(group), capacity)
    chunks: dict[str, list[list[Divergence]]] = {name: [[] for _ in group] for name in variants}
    for parts in _passes(group, rows, skip):
        batch, sizes = Rows.of(parts), [part.wanted for part in parts]
        baseline = reference(batch, own).split(sizes)
        for name, (run, cache) in every.items():
            found = run(batch, cache).split(sizes)
            for part, expected, logits in zip(parts, baseline, found, strict=True):
                if part.wanted:
                    ids, stop = group[part.slot], part.start + len(part.tokens)
                    following = ids[stop - part.wanted + 1 : stop + 1]
                    chunks[name][part.slot].append(between(expected, logits, following))
    return {name: [Divergence.pooled(one) for one in of_text] for name, of_text in chunks.items()}
