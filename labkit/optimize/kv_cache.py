"""The KV cache: keep what earlier tokens left behind, or compute it again for every token.

Four ways to produce the same continuation: no cache (the plain twin), a cache that grows by
concatenation, one that is allocated beforehand, and a window that forgets. The caches themselves
are labkit.model.cache; here they are set side by side, with what each must cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from labkit.limits.cost import Cost, decode_cost, prefill_cost
from labkit.model.cache import GrowingCache, KVCache, SlidingWindowCache, StaticCache
from labkit.model.config import ModelConfig
from labkit.model.decoder import Decoder
from labkit.model.generate import check_prompt
from labkit.model.rows import Rows
from labkit.model.sampling import greedy
from labkit.timing.trace import Trace, record

NO_CACHE, GROWING, STATIC = "no cache", "growing cache", "static cache"


def sliding(window: int) -> str:
    """The name of the sliding-window variant."""
    return f"sliding window {window}"


def makers(
    decoder: Decoder, capacity: int, window: int, sinks: int = 4
) -> dict[str, Callable[[], KVCache]]:
    """Makers of an empty cache of each kind, with two slots: one to keep, one to try in."""
    config, dtype, device = decoder.config, decoder.dtype, decoder.device
    return {
        GROWING: lambda: GrowingCache(config, 2, dtype, device),
        STATIC: lambda: StaticCache(config, 2, capacity, dtype, device),
        sliding(window): lambda: SlidingWindowCache(config, window, sinks, 2, dtype, device),
    }


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


def fill(decoder: Decoder, cache: KVCache, context: Sequence[int], chunk: int = 128) -> KVCache:
    """Read a context into slot 0, in chunks so that a window may forget on the way."""
    for start in range(0, len(context), chunk):
        decoder(Rows.prefill(context[start : start + chunk], start=start), cache)
    return cache


def cached_steps(decoder: Decoder, cache: KVCache, tokens: Sequence[int]) -> Iterator[int]:
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


def steps_at(
    decoder: Decoder, makers: dict[str, Callable[[], KVCache]], ids: Sequence[int], context: int
) -> dict[str, Callable[[int], Trace]]:
    """Variants that each time a few tokens after ids[:context], for `compare`.

    The caches are filled here, once; a round decodes the rest of `ids` in a fork of them. The
    variant without a cache computes two tokens only, so that its trace has a TPOT.
    """
    before, after = ids[:context], ids[context:]
    runs: dict[str, Callable[[int], Trace]] = {
        NO_CACHE: lambda _: record(lambda: recompute_steps(decoder, before, after[:2]), context)
    }
    for kind, make in makers.items():
        cache = fill(decoder, make(), before)
        runs[kind] = partial(_cached_round, decoder, cache, after)
    return runs


def _cached_round(decoder: Decoder, cache: KVCache, tokens: Sequence[int], _: int) -> Trace:
    return record(lambda: cached_steps(decoder, cache, tokens))


def step_cost(
    config: ModelConfig, variant: str, context: int, dtype: str, window: int, sinks: int = 4
) -> Cost:
    """What one token after `context` must cost with this variant.

    Growing and static share a limit: that the one copies what it holds is waste, not need.
    """
    if variant == NO_CACHE:
        return prefill_cost(config, context + 1, dtype=dtype)
    if variant == sliding(window):
        return decode_cost(config, min(context, window - 1 + sinks), dtype=dtype)
    return decode_cost(config, context, dtype=dtype)
