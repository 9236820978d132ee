"""Token after token: prefill once, then one row a pass."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Protocol

from torch import Tensor

from labkit.errors import ModelError
from labkit.model.cache import KVCache
from labkit.model.config import ModelConfig
from labkit.model.rows import Rows
from labkit.model.sampling import Sample, greedy


class Forward(Protocol):
    """What generates: the plain decoder, and everything that speeds it up."""

    config: ModelConfig

    def __call__(self, rows: Rows, cache: Any) -> Tensor: ...

    def new_cache(self, slots: int, capacity: int) -> Any: ...


def check_lengths(config: ModelConfig, prompt_tokens: int, new_tokens: int) -> None:
    """Raise ModelError for lengths that are nothing or more than the model's context."""
    if prompt_tokens < 1 or new_tokens < 1:
        raise ModelError(
            f"{prompt_tokens} prompt tokens and {new_tokens} new ones: both must be at least 1."
        )
    total = prompt_tokens + new_tokens
    if total > config.max_positions:
        raise ModelError(
            f"{prompt_tokens} prompt tokens and {new_tokens} new ones make {total}; the model's "
            f"context is {config.max_positions}. Shorten the prompt or ask for fewer."
        )


def check_prompt(config: ModelConfig, prompt_ids: Sequence[int], max_new_tokens: int) -> None:
    """Raise ModelError for a prompt that is empty, too long, or not of this vocabulary."""
    check_lengths(config, len(prompt_ids), max_new_tokens)
    if min(prompt_ids) < 0 or max(prompt_ids) >= config.vocab_size:
        raise ModelError(f"prompt token ids must lie in 0..{config.vocab_size - 1}.")


def generate(
    decoder: Forward,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    *,
    cache: KVCache | None = None,
    sampler: Sample = greedy,
    stop_ids: Collection[int] = (),
) -> Iterator[int]:
    """Yield up to max_new_tokens tokens; a stop id is yielded and ends the stream.

    Uses slot 0 of `cache`, which must be empty there; makes a static cache if none is given.
    Raises ModelError at the call, not at the first token, for a prompt that cannot be served.
    Whoever times it stands outside: nothing in here looks at a clock.
    """
    check_prompt(decoder.config, prompt_ids, max_new_tokens)
    if cache is None:
        cache = decoder.new_cache(1, len(prompt_ids) + max_new_tokens)
    return _tokens(decoder, prompt_ids, max_new_tokens, cache, sampler, stop_ids)


def _tokens(
    decoder: Forward,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    cache: KVCache,
    sampler: Sample,
    stop_ids: Collection[int],
) -> Iterator[int]:
    token = sampler(decoder(Rows.prefill(prompt_ids), cache)[-1])
    # A decoder may have a shorter way to its likeliest token than by logits and a sampler.
    following = getattr(decoder, "following", None) if sampler is greedy else None
    for count in range(1, max_new_tokens + 1):
        yield token
        if token in stop_ids or count == max_new_tokens:
            return
        if following is not None:
            token = following(token, cache)
        else:
            token = sampler(decoder(Rows.decode({0: (token, cache.length(0))}), cache)[-1])
