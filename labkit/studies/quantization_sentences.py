"""The sentences of notebook 04, from its numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from labkit.base.units import seconds
from labkit.quality.divergence import Divergence
from labkit.studies.lab import told_share
from labkit.timing.statistics import Ratio

# What each method does; shown for the methods that a run uses.
METHODS = {
    "rtn": "*Nearest* (`rtn`) takes the closest $q$ for each weight alone.",
    "symmetric": "*Symmetric* is nearest with the middle of the grid as every zero point.",
    "hqq": (
        "*HQQ* (Badri and Shaji, 2023) fits the zero points to the weights alone, without any "
        "text. It counts large errors less than nearest does."
    ),
    "gptq": r"""The output of a layer matters more than each weight. With $H = \sum x x^T$ over the
inputs of real text, *GPTQ* (Frantar et al., 2210.17323) looks for the integers that minimize

$$\mathrm{tr}\left((W - Q)\,H\,(W - Q)^T\right)$$

It rounds the weights of one input after another, and adjusts the weights of later inputs to
compensate for the error of the earlier ones. This project's version adds four things:

- It searches the scales, instead of taking them from the largest weight.
- It rounds the inputs with the largest mean square first.
- It shrinks $H$ toward its diagonal, because correlations estimated from a few thousand tokens are
  partly noise.
- It ends with a refit of the scales and a sweep of coordinate descent (QuantEase, 2309.01885),
  which lowers this error or leaves it as it is.""",
}
AT_ITS_LIMIT = (
    "*Limit*: the least time of a token by the best and by the slowest sustained rates of this "
    "run. *At its limit*: the plain decoder's time, as earlier rounds measured it, "
    "over the variant's limit. That would be the speedup if the variant's token took no longer "
    "than its limit. A dash: in the earlier rounds the variant was faster than its limit, so it is "
    "none."
)
FLOATS = {"F32", "F16", "BF16"}  # formats of a GGUF file that quantize nothing
# What a forecast is told from.
OWN_SHARE, PLAIN_REST = "its own share", "the plain decoder's rest"
FORECASTS = {
    PLAIN_REST: (
        "*The plain decoder's rest*: the variant replaces products and no other operation. So its "
        "forecast is its bare read, and the time that the plain decoder took beyond its own bare "
        "read."
    ),
    OWN_SHARE: "*Its own share*: the share of the bare read that the variant reached in them.",
}
COLUMNS = (
    "*At its limit*: the plain decoder's time over the variant's limit; a dash where the variant "
    "was faster than its limit, which was none then. *Held against*: work that "
    "took its turns in the same rounds, and only reads the variant's bytes or only does its "
    "products. *Of the bare read*: the time of this work over the variant's. The second turn of "
    "the plain decoder is the control."
)
REST = (
    "The time beyond goes to unpacking, arithmetic, and the overhead of operations. This notebook "
    "does not measure these separately."
)


def reference(formats: Mapping[str, float], dtype: str) -> str:
    """What the weights of the plain decoder are. formats: of its file, by share (may be empty)."""
    if not formats:
        return f"The reference is the plain decoder: the model directory's weights, in {dtype}."
    parts = " and ".join(f"{share:.0%} of the weights as {form}" for form, share in formats.items())
    told = f"The reference is the plain decoder. The model's file has {parts}"
    if set(formats) <= FLOATS:
        return f"{told}, and the plain decoder has them in {dtype}."
    return (
        f"{told}. The plain decoder has the same values, dequantized to {dtype}. So the reference "
        "is quantized itself: what the file lost against the original model is not measured here."
    )


def forecast_from(rounds: int, plain: float, sources: Collection[str]) -> str:
    """Where the forecasts come from. plain: seconds of the plain decoder's token there.

    sources: the keys of FORECASTS that are used.
    """
    told = (
        f"The forecasts come from {rounds} earlier rounds, on texts that the measurement below "
        f"does not use. In these rounds a token of the plain decoder took {seconds(plain)}."
    )
    return " ".join((told, *(text for source, text in FORECASTS.items() if source in sources)))


def share_told(value: float, low: float, high: float) -> str:
    """A share with its 95 % interval; without one where the text was too short for it."""
    return f"{value:.0%} [{100 * low:.0f}, {100 * high:.0f}]" if low < high else f"{value:.0%}"


def against_nearest(
    name: str,
    group: int,
    positions: int,
    kl: tuple[float, float, float],
    excess: tuple[float, float, float] | None,
) -> str:
    """A method's error compared with that of rounding to nearest, each with its 95 % interval.

    kl, excess: its share of nearest's mean KL, and of nearest's excess perplexity; None where
    nearest has next to none.
    """
    more = "" if excess is None else f" and {share_told(*excess)} of its excess perplexity"
    return (
        f"**{name}** in groups of {group} has {share_told(*kl)} of the KL of nearest{more}, with "
        f"the same bytes, on {positions:,} positions."
    )


def by_its_kernel(name: str, packed: Divergence, twin: Divergence, dtype: str) -> str:
    """A method's error as its kernel computes it, against its twin's on the same positions.

    dtype: that the twin computes in.
    """
    count = packed.kl.size
    return (
        f"**{name}**: its kernel takes inputs that are rounded to bfloat16. On the first {count:,} "
        f"positions its KL is {packed.kl.mean():.3g} with this kernel, and "
        f"{twin.kl[:count].mean():.3g} with the same weights as {dtype}."
    )


def beyond_bare(
    name: str, part: float, speedup: Ratio, token: float, share: Ratio | None, against: str
) -> str:
    """A variant's bytes, its speedup, and how much of a token's time lies beyond its bare work.

    part: of the plain decoder's bytes. token: seconds. against: the name of the bare work.
    """
    said = f"**{name}** reads {part:.1%} of the plain decoder's bytes. Its speedup is {speedup}."
    if share is None:
        return said
    rest = "its time is not measurably longer"
    if share.high < 1:
        rest = f"{seconds(token * (1 - share.value))} of its {seconds(token)} a token lie beyond it"
    return f"{said} It reaches {told_share(share)} of its {against}: {rest}."


def long_context(piece: int, context: int, positions: int) -> str:
    """What the table of long contexts was measured on. piece: tokens of the other texts."""
    return (
        f"The texts above are {piece:,} tokens long each. In the next table each decoder reads "
        f"{context:,} tokens of one longer text, and is compared at the {positions:,} positions "
        "that follow."
    )


def weights_or_cache(ratio: float) -> str:
    """Which bits matter in this run. ratio: bytes of weights over bytes of cache."""
    more, less = ("weights", "cache") if ratio >= 1 else ("cache", "weights")
    times = ratio if ratio >= 1 else 1 / ratio
    return (
        f"Here a token of the plain decoder reads {times:,.1f} times as many bytes of {more} as of "
        f"{less}. The table shows how far that differs in larger models with a long context."
    )


def measured(judged: int, positions: int, timed: int, rounds: int) -> str:
    """What was judged and timed."""
    return (
        f"{judged} variants were judged on the same {positions:,} positions. {timed} variants, the "
        f"plain decoder among them, were timed in {rounds} rounds."
    )
