"""Decoding without a KV cache, and with one that is filled once and used again.

Without a cache every token is a pass over all that came before it: the plain twin, and the
quadratic way. With one it is a pass over a single row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from labkit.engine.sequence import check_prompt
from labkit.model.cache.table import Cache
from labkit.model.decoder import Decoder
from labkit.model.rows import Rows
from labkit.model.sampling import greedy


def generate_without_cache(
    decoder: Decoder, prompt_ids: Sequence[int], max_new_tokens: int
) -> Iterator[int]:
    """Greedy tokens, each from a pass over everything before it: the quadratic way."""
    check_prompt(decoder.config, prompt_ids, max_new_tokens)
    ids = list(prompt_ids)
    for _ in range(max_new_tokens):
        token = greedy(decoder(Rows.prefill(ids), decoder.new_cache(1, len(ids)))[-1])
        yield token
        ids.append(token)


def recompute_steps(
    decoder: Decoder, context: Sequence[int], tokens: Sequence[int]
) -> Iterator[int]:
    """Feed `tokens` after a context without a cache; yields the token each would lead to."""
    for count in range(1, len(tokens) + 1):
        ids = [*context, *tokens[:count]]
        yield greedy(decoder(Rows.prefill(ids), decoder.new_cache(1, len(ids)))[-1])


def fill(decoder: Decoder, cache: Cache, context: Sequence[int], chunk: int = 128) -> Cache:
    """Read a context into slot 0, in chunks so that a window may forget on the way."""
    for start in range(0, len(context), chunk):
        decoder(Rows.prefill(context[start : start + chunk], start=start), cache)
    return cache


def cached_steps(decoder: Decoder, cache: Cache, tokens: Sequence[int]) -> Iterator[int]:
    """Feed `tokens` one by one after what slot 0 holds, in a fork that is thrown away.

    Slot 0 stays as it was, so that the same context serves the next round.
    """
    slot = cache.fork(0)
    try:
        for token in tokens:
            rows = Rows.decode({slot: (token, cache.length(slot))})
            yield greedy(decoder(rows, cache)[-1])
    finally:
        cache.truncate(slot, 0)
