"""The sentences of notebook 06, from the run's own numbers. All times are in seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from labkit.base.units import scaled, seconds
from labkit.engine.disk_blocks import BreakEven
from labkit.limits.hardware import Reading
from labkit.report.told.words import percent, times
from labkit.studies.caching_near import OTHER, REWORDED, Cell
from labkit.studies.caching_proof import Proved
from labkit.studies.caching_tables import told_seconds
from labkit.studies.predictions import shown
from labkit.timing.statistics import MARGIN, Ratio

ASKED = 0.01  # what a prefix cache may cost where it finds nothing
_MOST_WRONG = 0.01  # of answers, that anybody would accept


def of_proof(found: Proved) -> str:
    """How far answers in one way equal those alone."""
    count, tokens = len(found.same), sum(one.tokens for one in found.same)
    fact = f" ({found.fact})" if found.fact else ""
    if found.exact:
        return (
            f"**{found.way}**{fact}: the SHA-256 over every logit of {count} answers, "
            f"{tokens:,} tokens, is the one that they have alone."
        )
    told = "; ".join(str(one) for one in found.same if one.margin is not None)
    differing = f" Where tokens differ: {told}." if told else " All tokens are equal."
    return (
        f"**{found.way}**{fact}: {found.bits} of {count} answers have the same bits in every "
        f"logit. This decoder computes a row with other rounding where other rows share its pass."
        f"{differing}"
    )


def of_break_even(found: BreakEven, disk: Reading, tier: float | None, rounds: int) -> str:
    """Whether the disk is worth reading, by what was measured on another text. tier: bytes/s that
    the disk tier gave there; None where its turns took no longer than those in memory."""
    gave = (
        "after the earlier text its turns took no longer than those in memory"
        if tier is None
        else f"after the earlier text it gave {scaled(tier, 'B/s')}, "
        f"{times(tier / (found.kv_bytes * found.prefill_rate))} of the break-even"
    )
    return (
        f"{found} The rate of the prefill is that of {rounds} earlier rounds on another text. The "
        f"disk read one file that the system had forgotten at {scaled(disk.slowest, 'B/s')} to "
        f"{scaled(disk.best, 'B/s')} in three tries. A disk tier reads a file for each block, "
        f"compares its checksum, and copies it into the cache: {gave}."
    )


def of_expected(shortest: int | None, sooner: int | None, gain: float) -> str:
    """From which prefix the disk is expected to be faster, and memory so many times as fast."""
    disk = (
        "The disk is expected to be slower than computing after each of these prefixes."
        if shortest is None
        else f"The disk is expected to be faster than computing from {shortest:,} tokens on."
    )
    if sooner is None:
        return f"{disk} After none of them is memory expected to be {gain:g} times as fast."
    return f"{disk} Memory is expected to be {gain:g} times as fast from {sooner:,} tokens on."


def of_crossing(way: str, found: int | None, prefixes: Sequence[int]) -> str:
    """From which of the measured prefixes on a way was sooner than computing."""
    if found is None:
        return (
            f"A prefix **{way}**: the first token was not measurably sooner than computed after "
            f"the longest prefix, {prefixes[-1]:,} tokens."
        )
    where = (
        f"after every prefix, so both cross below {found:,} tokens, if at all"
        if found == prefixes[0]
        else f"from {found:,} shared tokens on"
    )
    return f"A prefix **{way}**: the first token came measurably sooner than computed {where}."


def of_gains(length: int, gains: Mapping[str, Ratio]) -> str:
    """All gains after the longest prefix."""
    told = "; ".join(f"{ratio} as soon {way}" for way, ratio in gains.items())
    return f"After {length:,} shared tokens, beside recomputing, the first token comes {told}."


def of_storage(held: float | None, read: float | None) -> str:
    """Whether the disk was read: the share of the needed bytes that came from storage."""
    if held is None or read is None:
        return (
            "This system does not tell which bytes came from storage, so it is not known whether "
            "the disk was read or what the system held of it."
        )
    said = (
        "Before each turn on disk the memory of the prefix cache was dropped. For the turns "
        "*on disk* the system was told to forget the files as well; by its own count, "
        f"{'all' if read >= 1 else percent(read)} of their bytes then came from storage. For the "
        f"turns *held by the system* it was {percent(held)}: the page cache had the rest."
    )
    if read < 0.5:
        return (
            f"{said} So most bytes of the turns *on disk* did not come from storage either: the "
            "files lie in memory, or the system kept them."
        )
    return f"{said} What a host below this system keeps of its disk is not known."


def of_same_loads(same: Mapping[str, float]) -> str:
    """How many answers of the loads are the same with and without caches."""
    wrong = {name: share for name, share in same.items() if share < 1}
    if not wrong:
        return "Every answer of every load has the same tokens with a cache and without."
    told = ", ".join(f"{name} {percent(share)}" for name, share in wrong.items())
    return (
        f"Answers with the same tokens with a cache and without: {told}; all of the other loads. "
        "This decoder computes a row with other rounding where other rows share its pass."
    )


def of_saving(name: str, hit_rate: float, share: float, ratio: Ratio) -> str:
    """What a hit rate saved of a load: the one with the highest hit rate."""
    saved = 1 - 1 / ratio.value
    return (
        f"The highest hit rate is that of the {name}: {percent(hit_rate)} of its prompt tokens. "
        f"Prefill took {percent(share)} of the time of an earlier load of the kind. So hits save "
        f"{percent(hit_rate * share)} of the time if all prompt tokens cost the same, and at most "
        f"{percent(share)}. The load as a whole took {percent(abs(saved))} "
        f"{'less' if saved >= 0 else 'more'} time. Its speedup: {shown(ratio)}."
    )


def of_trust(wrong: Sequence[str]) -> str:
    """Which controls showed a difference."""
    if not wrong:
        return "No control shows a difference, as it must be."
    return f"The control shows a difference for {', '.join(wrong)}: no verdict holds there."


def of_zero(way: str, longer: Ratio, own: Ratio, hits: int, rounds: int) -> str:
    """What a prefix cache costs where it finds nothing."""
    low, high = 100 * (longer.low - 1), 100 * (longer.high - 1)
    said = (
        f"**{way}**: a request took {100 * (longer.value - 1):+.1f}% [{low:+.1f}, {high:+.1f}] "
        f"longer than with it off, in {rounds} paired rounds; {hits} tokens were hits. The "
        f"engine's own clock, which counts all but the decoder's passes, adds "
        f"{100 * (own.value - 1):+.2f}% [{100 * (own.low - 1):+.2f}, {100 * (own.high - 1):+.2f}] "
        "to a request."
    )
    if longer.high <= 1 + ASKED:
        return f"{said} Both ends of the interval are at most {percent(ASKED)}."
    if longer.low > 1 + ASKED:
        return f"{said} By the rounds it is more than {percent(ASKED)}."
    open_ = f"{said} The rounds alone do not show whether it is at most {percent(ASKED)}"
    if own.high <= 1 + ASKED:
        return f"{open_}; by the engine's own clock it is."
    if own.low > 1 + ASKED:
        return f"{open_}; by the engine's own clock it is more."
    return f"{open_}, nor does the engine's own clock."


def of_writing_behind(found: Ratio) -> str:
    """What writing evicted blocks takes of a core. found: 1 and the share of a request's time."""
    share, low, high = (100 * (one - 1) for one in (found.value, found.low, found.high))
    return (
        "Evicted blocks wait in memory, and another thread writes them. It kept one core busy for "
        f"{share:.2f}% [{low:.2f}, {high:.2f}] of the request's time; the rest was written in the "
        "pause after the request. The engine's own clock does not count that; where the thread "
        "took a core from a pass, the paired rounds do."
    )


def of_identical(
    computed: Ratio,
    answered: Ratio,
    ratio: Ratio,
    same: tuple[int, int],
    seeded: tuple[int, int],
    unseeded: bool,
) -> str:
    """How soon an identical request is answered from the file. same, seeded: how many answers have
    the computed tokens, and of how many; greedy ones, and those sampled with a seed."""
    drawn = (
        "A request that is sampled without a seed was answered from the file, which must not be."
        if unseeded
        else "A request that is sampled without a seed was computed again, as it must be."
    )
    return (
        f"An identical request took {told_seconds(computed)} computed and "
        f"{told_seconds(answered)} from the file: {times(ratio.value)} "
        f"[{ratio.low:.0f}, {ratio.high:.0f}] as soon. {same[0]} of {same[1]} greedy answers from "
        f"the file have the computed tokens, and {seeded[0]} of {seeded[1]} that were sampled with "
        f"a seed. {drawn}"
    )


def of_recalled(recalled: float, recallable: float, slots: int) -> str:
    """What a response cache answered of a load, and what of it was repeated at all."""
    said = (
        f"In the load of repeated questions, {percent(recallable)} of the requests repeat an "
        f"earlier one word for word, and {percent(recalled)} were answered from the response cache."
    )
    if recalled < recallable - MARGIN:
        return (
            f"{said} The others came while the same question was still being computed: "
            f"{slots} requests are served at the same time, and only a whole answer is kept."
        )
    return said


def of_near(
    cells: Mapping[tuple[str, float], Cell], similar: Mapping[str, Mapping[str, Sequence[float]]]
) -> str:
    """What the thresholds are worth. similar: by way and kind, the similarity to the nearest."""
    told = []
    for way, kinds in similar.items():
        same, other = (float(np.median(kinds[kind])) for kind in (REWORDED, OTHER))
        order = "nearer than" if other > same else "further than" if other < same else "as near as"
        told.append(
            f"By {way}, a question with another name or number is {order} the same question in "
            f"other words (median {other:.4f} and {same:.4f})"
        )
    rates = {key: rate for key, cell in cells.items() if (rate := cell.wrong_rate) is not None}
    good = [key for key, (_, _, high) in rates.items() if high <= _MOST_WRONG]
    if good:
        named = ", ".join(f"{way} from {threshold:g}" for way, threshold in good)
        end = f"Shown to be wrong at most {percent(_MOST_WRONG)} of the time: {named}."
    elif rates:
        (way, threshold), (value, low, high) = min(rates.items(), key=lambda one: one[1][0])
        end = (
            f"The lowest rate of wrong answers is {value:.0%} [{100 * low:.0f}, {100 * high:.0f}], "
            f"by {way} from {threshold:g} on. No threshold is shown to be wrong at most "
            f"{percent(_MOST_WRONG)} of the time, so the engine answers identical requests only."
        )
    else:
        end = "No question came near enough to a cached one at these thresholds."
    return f"{'. '.join(told)}. {end}"


def of_parts(
    length: int, parts: Mapping[str, Ratio], extra: float, passes: float, fetched: float | None
) -> str:
    """What reading a prefix from disk consists of. extra: seconds that a turn on disk took beyond
    one in memory, where the system held the files; passes: those of its passes. fetched: seconds
    beyond that where it did not; None if not timed."""
    told = ", ".join(f"{name} {told_seconds(found)}" for name, found in parts.items())
    whole = sum(found.value for found in parts.values())
    said = (
        f"For the blocks of {length:,} tokens, with the files in the system's memory: {told}; "
        f"{seconds(whole)} together. In the rounds, a first token *on disk, held by the system* "
        f"took {_beyond(extra)} than one in memory ({_rest(extra, whole)}), and its pass "
        f"{_beyond(passes)}"
    )
    if fetched is None:
        return f"{said}."
    return f"{said}. One *on disk* took {_beyond(fetched)} than one held by the system."


def _rest(extra: float, whole: float) -> str:
    """What the parts leave of the time that a turn took longer."""
    if extra <= whole:
        return "no more than these parts together"
    return f"these parts are {percent(whole / extra)} of it, the rest is not taken apart"


def _beyond(taken: float) -> str:
    return f"{seconds(abs(taken))} {'longer' if taken >= 0 else 'shorter'}"


def of_memory(length: int, fraction: float | None, passes: float, own: float) -> str:
    """The gap of a first token from memory. passes, own: mean seconds of a turn."""
    reached = (
        "was sooner than the limit by the best rate that this run measured beforehand"
        if fraction is None
        else f"reached {percent(fraction)} of its limit"
    )
    return (
        f"After {length:,} tokens in memory, the first token {reached}. Its pass took "
        f"{seconds(passes)}, the engine itself {seconds(own)}, {percent(own / (own + passes))} of "
        "both: matching, adopting and publishing blocks."
    )
