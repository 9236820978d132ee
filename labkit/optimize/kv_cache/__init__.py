"""The KV cache: keep what earlier tokens left behind, or compute it again for every token.

The caches themselves are in labkit.model.cache.
"""

from labkit.optimize.kv_cache.steps import (
    cached_steps,
    fill,
    generate_without_cache,
    recompute_steps,
)

__all__ = ["cached_steps", "fill", "generate_without_cache", "recompute_steps"]
