"""The variants of notebook 02, and the least cost of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from labkit.base.device import Device
from labkit.base.units import scaled
from labkit.limits.calculator import shapes
from labkit.limits.cost import Cost, decode_cost, prefill_cost
from labkit.model.cache.growing import GrowingCache
from labkit.model.cache.static import StaticCache
from labkit.model.cache.table import Cache
from labkit.model.cache.window import SlidingWindowCache
from labkit.model.config import ModelConfig
from labkit.model.decoder import Decoder
from labkit.optimize.kv_cache import cached_steps, fill, recompute_steps
from labkit.timing.compare import Variant
from labkit.timing.trace import Trace, record

NO_CACHE, GROWING, STATIC = "no cache", "growing cache", "static cache"
SINKS = 4  # first tokens that a window keeps
Makers = dict[str, Callable[[], Cache]]


def sliding(window: int) -> str:
    """The name of the sliding-window variant."""
    return f"sliding window {window}"


def slides_from(window: int, sinks: int = SINKS) -> int:
    """The least context at which a step drops a token: neither a first one nor in the window."""
    return window + sinks


def timed_contexts(prompt_tokens: int, new_tokens: int) -> range:
    """The contexts of the steps that TPOT counts: those of all new tokens but the first."""
    return range(prompt_tokens, prompt_tokens + new_tokens - 1)


def makers(decoder: Decoder, capacity: int, window: int, sinks: int = SINKS) -> Makers:
    """Makers of an empty cache of each kind. Slot 0 keeps the prompt; a round decodes in slot 1."""
    config, dtype, device = decoder.config, decoder.dtype, decoder.device
    return {
        GROWING: lambda: GrowingCache(config, 2, dtype, device),
        STATIC: lambda: StaticCache(config, 2, capacity, dtype, device),
        sliding(window): lambda: SlidingWindowCache(config, window, sinks, 2, dtype, device),
    }


def steps_at(
    decoder: Decoder, makers: Makers, ids: Sequence[int], context: int, without: bool = True
) -> dict[str, Variant]:
    """Variants that each time a few tokens after ids[:context], for `compare`.

    The caches are filled here, once; a round decodes the rest of `ids` in a fork of them. The
    variant without a cache computes two tokens only, so that its trace has a TPOT; without: whether
    there is one.
    """
    before, after, device = ids[:context], ids[context:], decoder.device
    runs: dict[str, Variant] = {}
    if without:
        stream = partial(recompute_steps, decoder, before, after[:2])
        runs[NO_CACHE] = partial(_round, stream, device)
    for kind, make in makers.items():
        cache = fill(decoder, make(), before)
        runs[kind] = partial(_round, partial(cached_steps, decoder, cache, after), device)
    return runs


def _round(stream: Callable[[], Iterator[int]], device: Device, _: int) -> Trace:
    return record(stream, 0, device)


def cost_of(
    config: ModelConfig, variant: str, context: int, dtype: str, window: int, sinks: int = SINKS
) -> Cost:
    """The least cost of one token after `context` with this variant.

    The growing cache has the same limit as the static one: a decoder need not copy.
    """
    if variant == NO_CACHE:
        return prefill_cost(config, context + 1, dtype=dtype)
    if variant == sliding(window):
        return decode_cost(config, min(context, window - 1 + sinks), dtype=dtype)
    return decode_cost(config, context, dtype=dtype)


def more_flops(config: ModelConfig, context: int = 1024) -> float:
    """FLOPs of a token without a cache over those with one."""
    without, with_cache = (
        cost_of(config, kind, context, "bfloat16", context).flops for kind in (NO_CACHE, STATIC)
    )
    return without / with_cache


def outweighs(config: ModelConfig) -> int:
    """The context at which keys and values have as many bytes as the weights, both in 16 bits."""
    weights = decode_cost(config, 0, dtype="bfloat16").weight_bytes
    return int(weights / config.kv_bytes_per_token(2))


def with_other_models() -> list[dict[str, object]]:
    """Rows of a table: what the cache of well-known models weighs, and what it saves."""
    return [
        {
            "model": name,
            "KV a token (16 bits)": scaled(shape.kv_bytes_per_token(2), "B"),
            "context where KV bytes equal weight bytes": outweighs(shape),
            "FLOPs without a cache / with, at 1,024": f"{more_flops(shape):,.0f}x",
        }
        for name, shape in shapes().items()
    ]
