"""Sentences of notebook 07, from what it measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from labkit.base.units import seconds
from labkit.engine.one_hash import Line
from labkit.engine.records import PassRecord, busy_seconds
from labkit.limits.batching import BatchLimit
from labkit.limits.roofline import Limit
from labkit.report.told.compared import Least
from labkit.report.told.words import percent, times
from labkit.studies.batching_answers import Mixed
from labkit.studies.batching_frontier import Point
from labkit.studies.batching_memory import Memory
from labkit.studies.batching_stall import CALM, PACED, WHOLE, Stall
from labkit.studies.batching_tables import of_multiple
from labkit.studies.batching_workloads import Tail
from labkit.studies.predictions import shown
from labkit.timing.statistics import MARGIN, Ratio, interval

KEPT = 0.9  # the share of requests that should meet the SLOs

NO_HASH = (
    "Logits are not compared: this is the plain decoder, whose matrix products may round a row "
    "differently with other rows beside it. The fused decoder gives a row the same bits in every "
    "pass."
)


def of_answers(found: Mixed, slots: int) -> str:
    """How many answers of a mixed schedule equal the requests alone."""
    exact = sum(one.margin is None for one in found.same)
    text = (
        f"{len(found.same)} requests shared {slots} slots, in {len(found.records)} passes. "
        f"{found.both} of these had rows of prompts and of answers. Requests lost their slot "
        f"{found.preempted} times, and were computed again. **{exact} of {len(found.same)}** "
        "answers equal those of `generate` alone in every token "
        f"({sum(one.tokens for one in found.same):,} tokens compared)"
    )
    ties = len(found.same) - exact
    return f"{text}; {ties} first differ at a tie within rounding." if ties else f"{text}."


def of_hash(lines: Sequence[Line], answers: int, tokens: int) -> str:
    """Whether there is one hash."""
    text = f"The SHA-256 over every logit of {answers} answers of {tokens} tokens"
    if ended := [line.way.removesuffix(", here") for line in lines if line.ends]:
        return f"{text} is **not one hash**: it ends at {', '.join(ended)}."
    return f"{text} is **one hash** in all {len(lines)} ways."


def of_roofline(limits: Mapping[int, BatchLimit]) -> str:
    """What the roofline says of batching on this machine."""
    most = max(limits)
    last = limits[most]
    computing = [batch for batch, one in limits.items() if one.limit.bound == "compute"]
    text = (
        f"At the limit of this machine, {most} requests in a pass give {times(last.gain)} the "
        "tokens a second of one."
    )
    if computing:
        text += f" {_since(min(computing))} computing takes longer than reading, and a larger "
        text += "batch gives hardly more."
    return (
        f"{text} Each request reads keys and values of its own: {percent(limits[1].kv_share)} of "
        f"the bytes of a pass of one, {percent(last.kv_share)} of a pass of {most}."
    )


def _since(batch: int) -> str:
    return "Even for one request," if batch == 1 else f"From {batch} requests on,"


def of_tail(tail: Tail, lengths: Sequence[int], slots: int, longest: float) -> str:
    """The lengths of the answers, and what static batching loses to them."""
    mean = sum(lengths) / len(lengths)
    return (
        f"{len(lengths)} answers with lognormal lengths (median {tail.median}, σ {tail.sigma:g}, "
        f"at most {tail.most}) have {mean:.1f} tokens on average; the longest has {max(lengths)}. "
        f"The longest of {slots} has {longest:.1f} on average. So over the passes of a static "
        f"batch, **{percent(mean / longest)}** of its slots still answer."
    )


def of_gains(constant: float, costed: float, forecast: float) -> str:
    """What in-flight batching may gain over static batching."""
    return (
        "For these very requests in their order, beginning and end included, in-flight batching is "
        f"{times(constant)} as fast as static batching if a pass takes the same time whatever its "
        f"rows. By what such passes cost it is **{times(costed)}** as fast: requests that are "
        "done leave a static batch, and its passes become cheaper. Both leave out the prompts; "
        f"with them, the forecast is {times(forecast)}."
    )


def of_scaling(gains: Mapping[int, Ratio], at_limit: Mapping[int, float]) -> str:
    """What larger passes gave. at_limit: the gain there, where no limit was beaten."""
    best = max(gains, key=lambda batch: gains[batch].value)
    text = (
        f"Most tokens a second came with {best} requests in a pass: **{gains[best]}** as many as "
        "with one."
    )
    return f"{text} At the limit it would be {times(at_limit[best])}." if best in at_limit else text


def of_last_gain(batch: int, gain: Ratio, at_limit: float | None) -> str:
    """The gain of the largest pass, for the figure. at_limit: None where a limit was beaten."""
    text = f"S({batch})/S(1) is {gain}"
    if at_limit is None:
        return f"{text}."
    return f"{text}; at the limit of this machine it would be {times(at_limit)}."


def of_policies(gain: Ratio, constant: float, costed: float) -> str:
    """In-flight batching against static batching, and the share of what was allowed."""
    low, high = (100 * end / costed for end in (gain.low, gain.high))
    text = (
        f"In-flight over static batching: **{shown(gain)}**. That is "
        f"**{percent(gain.value / costed)}** [{low:.0f}, {high:.0f}] of the {times(costed)} that "
        f"the forecast cost of passes allows, and {percent(gain.value / constant)} of the "
        f"{times(constant)} that equal passes would allow."
    )
    if costed > 1 + MARGIN:
        extra = max(0.0, (gain.value - 1) / (costed - 1))
        text += f" Of what their cost allows beyond 1.00x, it is {percent(extra)}."
    return text


def of_slots(shares: Mapping[str, float], full: float, last: int, slots: int) -> str:
    """How many slots gave a token in a pass, against the ceiling of full static batches.

    shares: by policy, of all slots, the mean over passes. full: E[length] / E[longest of a batch].
    last: requests of the last static batch.
    """
    told = ", ".join(f"**{percent(share)}** in {name}" for name, share in shares.items())
    rest = f" The last static batch has {last} requests for {slots} slots." if last < slots else ""
    return (
        f"Slots that gave a token, the mean over passes: {told}. By the lengths of the answers, "
        f"full static batches allow {percent(full)}.{rest}"
    )


def of_engine(one: Ratio, share: Ratio, slots: int, rate: float, gain: Ratio) -> str:
    """The engine against its passes, and with one request against `generate`.

    one: `generate` over the engine. share: the passes alone over the engine with all slots.
    """
    return (
        f"With {slots} requests in flight the engine gives {rate:,.0f} output tokens a second: "
        f"**{_share(share)}** of what its passes alone give{_noise(share)}, and {gain} as many as "
        "`generate` with one request. With one request the engine reaches "
        f"**{_share(one)}** of `generate`{_noise(one)}."
    )


def _noise(ratio: Ratio) -> str:
    """What is to be said of a share that cannot truly be above 100 %."""
    if ratio.value <= 1:
        return ""
    if ratio.low > 1:
        return " (it cannot be faster than they are: the machine was faster in its turns)"
    return " (above 100 % by noise: the interval includes 100 %)"


def _share(ratio: Ratio) -> str:
    return f"{percent(ratio.value)} [{100 * ratio.low:.1f}, {100 * ratio.high:.1f}]"


def of_own_time(records: Sequence[PassRecord]) -> str:
    """What the engine itself took."""
    own, busy = sum(one.own for one in records), busy_seconds(records)
    return (
        f"Planning, sampling and handing out tokens took {seconds(own / len(records))} a pass, "
        f"**{percent(own / busy)}** of the pass."
    )


def of_stall(rounds: Mapping[str, Sequence[Stall]], tokens: int, beside: int) -> str:
    """What chunks change."""
    whole, paced, without = rounds[WHOLE], rounds[PACED], rounds[CALM]
    first, second, alone = (
        interval([one.stretch for one in some]) for some in (whole, paced, without)
    )
    later = interval([b.ttft / a.ttft for a, b in zip(whole, paced, strict=True)])
    text = (
        f"While a prompt of {tokens:,} tokens is read {WHOLE}, each of {beside} running requests "
        f"waits for one token **{of_multiple(first)}** as long as usual. While it is read {PACED}, "
        f"the longest gap is **{of_multiple(second)}** the usual one; in as many passes without "
        f"any long prompt the longest gap is {of_multiple(alone)} the usual one. "
    )
    price = "The price: the" if later.low > 1 else "The"
    return f"{text}{price} long prompt's own first token takes {of_multiple(later)} as long."


def of_frontier(points: Sequence[Point], rate: float, requests: int, rounds: int) -> str:
    """What a load is, and up to which load each policy kept the SLOs."""
    told = [
        f"A load of 100 % is {rate:.3g} requests a second: what in-flight batching serves where "
        f"all requests are there at the start. {_drawn(points, rate)} Each round is {requests} "
        "requests, its beginning and its end included: above 100 % the queue grows, but not for "
        "long. Throughput and goodput are over the time until the last token, so that they stay "
        "below the rate that was due even where every request meets the SLOs. Intervals are over "
        f"{rounds} rounds."
    ]
    for policy in dict.fromkeys(one.policy for one in points):
        loads = [one.load for one in points if one.policy == policy and one.met.low >= KEPT]
        if loads:
            told.append(
                f"With {policy}, at least {percent(KEPT)} of the requests met both SLOs at a load "
                f"of {percent(max(loads))}, by the lower end of the interval."
            )
        else:
            told.append(
                f"With {policy}, no load is shown to let {percent(KEPT)} of the requests meet both "
                "SLOs: the lower end of each interval lies below that."
            )
    return " ".join(told)


def _drawn(points: Sequence[Point], rate: float) -> str:
    """How the rate that came differs from the rate that was asked for."""
    came = {one.load: one.rate / rate for one in points}
    asked = " and ".join(percent(load) for load in came)
    return (
        f"Arrivals are drawn at random: asked for were {asked} of it, and in these rounds "
        f"{' and '.join(map(percent, came.values()))} came."
    )


def of_memory(found: Mapping[str, Memory]) -> str:
    """How much of the held memory holds tokens."""
    told = "; ".join(
        f"{name}: **{percent(one.of_paged)}**, in a contiguous cache {percent(one.of_contiguous)}"
        for name, one in found.items()
    )
    return (
        f"Of the positions that requests hold in a paged cache, so many hold a token: {told}. What "
        "is missing in the paged cache is a part of each request's last block."
    )


def of_fractions(batch: int, alone: float | None, several: float | None, share: float) -> str:
    """Why a gain is not that of the limit: how near each pass is to its own limit."""
    if alone is None or several is None:
        return (
            "A pass was faster than its limit by the rates that this run measured beforehand, so "
            "its gain is not taken apart."
        )
    return (
        f"A pass of one request reaches {percent(alone)} of its own limit, and a pass of "
        f"{batch} reaches {percent(several)}. So the gain is {percent(share)} of the one that both "
        "would have at their limits."
    )


def of_rest(batch: int, taken: float, least: Limit) -> str:
    """What reading and computing leave unexplained in a pass. taken: seconds."""
    reading, computing = least.memory_seconds, least.compute_seconds
    text = f"A pass of {batch} requests takes {seconds(taken)}."
    if Least(least.seconds).standing(taken) is None:
        return f"{text} It was faster than its limit, so that was none."
    text += (
        f" At the limit, reading its bytes takes {seconds(reading)} and its products "
        f"{seconds(computing)}"
    )
    beyond, both = taken - least.seconds, reading + computing
    more = "more" if taken > both else "less"
    return (
        f"{text}; {seconds(beyond)} are beyond the longer of the two. The pass takes {more} than "
        f"reading and computing one after the other would, {seconds(both)}."
    )
