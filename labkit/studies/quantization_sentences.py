"""The sentences of notebook 04, from its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from labkit.base.units import seconds
from labkit.quality.divergence import Divergence

LIMIT_AGAINST_LIMIT = (
    "*Speedup of the limit* is the plain decoder's least time over the variant's. The measured "
    "speedup can be larger, if the variant reaches a larger fraction of its limit than the plain "
    "decoder."
)
REST = (
    "The time above the limit goes to unpacking, arithmetic, and the overhead of operations. This "
    "notebook does not measure these separately."
)


def against_nearest(
    name: str,
    group: int,
    told: Mapping[str, Any],
    nearest: Mapping[str, Any],
    share: tuple[float, float, float] | None,
) -> str:
    """A method's error compared with that of rounding to nearest.

    told, nearest: what the findings say of both (Divergence.quality). share: of nearest's excess
    perplexity, with its 95 % interval; None where nearest has next to none.
    """
    excess = ""
    if share is not None:
        excess = f" and {share[0]:.0%} of its excess perplexity [{share[1]:.0%}, {share[2]:.0%}]"
    return (
        f"**{name}** in groups of {group} has {told['kl_mean'] / nearest['kl_mean']:.0%} of the KL "
        f"of nearest{excess}, with the same bytes, on {told['positions']:,} positions. Its "
        f"perplexity is x{told['perplexity_ratio']:.4f}; that of nearest is "
        f"x{nearest['perplexity_ratio']:.4f}."
    )


def in_bfloat16(name: str, packed: Divergence, judged: Divergence) -> str:
    """A method's error as torch's kernels compute it, against float32 on the same positions."""
    count = packed.kl.size
    return (
        f"**{name}** was judged with float32 arithmetic. torch's kernels compute in bfloat16. On "
        f"the first {count:,} positions its KL is {packed.kl.mean():.3g} in bfloat16 and "
        f"{judged.kl[:count].mean():.3g} in float32."
    )


def beyond_limit(name: str, part: float, speedup: float, fraction: float, token: float) -> str:
    """A variant's bytes, its speedup, and how much of a token's time lies above its limit.

    part: of the plain decoder's bytes. fraction: of its own limit. token: seconds.
    """
    rest = "there is no measurable rest above it"
    if fraction < 1:
        rest = f"{seconds(token * (1 - fraction))} of each token are above it"
    return (
        f"**{name}** reads {part:.1%} of the plain decoder's bytes and is {speedup:.2f}x as fast. "
        f"It reaches {fraction:.0%} of its own limit; {rest}."
    )


def weights_or_cache(ratio: float) -> str:
    """Which bits matter in a short answer. ratio: bytes of weights over bytes of cache."""
    return (
        f"Here a token of the plain decoder reads {ratio:,.0f} times as many bytes of weights as "
        "of cache, so the bits of the weights matter most. With a long context or a large batch, "
        "the bits of the cache matter too."
    )
