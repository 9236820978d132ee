"""Generation: prefill once, then one row a pass."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from labkit.engine.passes import Passes
from labkit.engine.sequence import Decoding, check_prompt
from labkit.model.cache.table import Cache
from labkit.model.forward import Forward
from labkit.model.sampling import Sample, greedy


def generate(
    decoder: Forward,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    *,
    cache: Cache | None = None,
    sampler: Sample = greedy,
    stop_ids: Collection[int] = (),
) -> Iterator[int]:
    """Yield up to max_new_tokens tokens; a stop id is yielded and ends the stream.

    Uses slot 0 of `cache`, which must be empty there; makes a cache if none is given. Raises
    ModelError at the call, not at the first token, for a prompt that cannot be served. It reads no
    clock: timing is the caller's.
    """
    check_prompt(decoder.config, prompt_ids, max_new_tokens)
    if cache is None:
        cache = decoder.new_cache(1, len(prompt_ids) + max_new_tokens)
    request = Decoding(cache, prompt_ids, max_new_tokens, sampler=sampler, stop_ids=stop_ids)
    return _tokens(Passes(decoder, cache), request)


def _tokens(passes: Passes, request: Decoding) -> Iterator[int]:
    while not request.done:
        (tokens,) = passes.step([request])
        yield from tokens
