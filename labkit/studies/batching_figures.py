"""The figures of notebook 07."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from labkit.engine.records import PassRecord
from labkit.engine.timeline import requests_of
from labkit.limits.batching import BatchLimit
from labkit.report.told.plots import label_log_axis, new_figure, show
from labkit.studies import timeline_figure
from labkit.studies.batching_frontier import HIGH, Point
from labkit.studies.batching_stall import Stall
from labkit.timing.statistics import Ratio

_DRAWN = 32  # requests of a timeline
_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000)  # ms


def scaling(
    measured: Mapping[int, Ratio],
    forecast: Mapping[int, float],
    limits: Mapping[int, BatchLimit],
    at_limit: Mapping[int, float],
    alt: str,
    caption: str,
) -> None:
    """Left: S(B)/S(1), at the limit, forecast and measured. Right: the bytes that a pass reads.

    measured, forecast, limits, at_limit: by the number of requests in a pass; at_limit without
    those whose limit was beaten.
    """
    figure, (left, right) = new_figure(7.6, 3.4, columns=2)
    batches = list(measured)
    gains = [one.value for one in measured.values()]
    if at_limit:
        left.plot(list(at_limit), list(at_limit.values()), "--", color="C4",
                  label="at the limit of this machine")  # fmt: skip
    left.plot(list(forecast), list(forecast.values()), ":", color="C1", label="forecast")
    left.errorbar(batches, gains, yerr=_reach(list(measured.values())), fmt="o-", markersize=3,
                  color="C0", label="measured")  # fmt: skip
    left.set(xscale="log", xlabel="requests in a pass", ylabel="S(B) / S(1)", ylim=(0, None))
    left.legend()
    weights = [1e-6 * one.cost.weight_bytes for one in limits.values()]
    keys = [1e-6 * one.cost.kv_read_bytes for one in limits.values()]
    places = [str(batch) for batch in limits]
    right.bar(places, weights, color="C0", label="weights")
    right.bar(places, keys, bottom=weights, color="C1", label="keys and values")
    right.set(xlabel="requests in a pass", ylabel="MB read by a pass")
    right.grid(axis="x", visible=False)
    right.legend()
    label_log_axis(left.xaxis, batches)
    show(figure, alt, caption)


def _reach(ratios: Sequence[Ratio]) -> list[list[float]]:
    """How far intervals reach below and above their values, as matplotlib takes it."""
    low = [one.value - one.low for one in ratios]
    return [low, [one.high - one.value for one in ratios]]


def frontier(points: Sequence[Point], slo_ttft: float, alt: str, caption: str) -> None:
    """Left: time to first token against output throughput. Right: goodput against arrivals."""
    figure, (left, right) = new_figure(7.6, 4.0, columns=2)
    for place, policy in enumerate(dict.fromkeys(one.policy for one in points)):
        own, color = [one for one in points if one.policy == policy], f"C{place}"
        _latencies(left, own, color)
        goodput = [one.goodput for one in own]
        reach = [
            [one.value - one.low for one in goodput],
            [one.high - one.value for one in goodput],
        ]
        right.errorbar([one.rate for one in own], [one.value for one in goodput], yerr=reach,
                       fmt="o-", markersize=3, color=color, label=policy)  # fmt: skip
    left.axhline(1e3 * slo_ttft, color="C4", linewidth=1, linestyle=":", label="SLO")
    left.set(xlabel="output tokens/s", ylabel="time to first token, ms", yscale="log")
    label_log_axis(left.yaxis, _ticks(points, slo_ttft))
    left.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.18))
    every = [one.rate for one in points]
    right.plot([0, max(every)], [0, max(every)], ":", color="C4", label="all that came")
    right.set(xlabel="requests/s that were due", ylabel="goodput, requests/s")
    right.set(xlim=(0, None), ylim=(0, None))
    right.legend()
    show(figure, alt, caption)


def _latencies(axes: Any, own: Sequence[Point], color: str) -> None:
    """The median with its interval, and a high percentile, of one policy."""
    rates = [one.throughput.value for one in own]
    middle = [1e3 * one.ttft.value for one in own]
    reach = [[1e3 * part for part in side] for side in _reach([one.ttft for one in own])]
    axes.errorbar(rates, middle, yerr=reach, fmt="o-", markersize=3, color=color,
                  label=f"{own[0].policy}, median")  # fmt: skip
    high = [1e3 * one.ttft_high.value for one in own]
    axes.plot(
        rates, high, "s--", markersize=3, linewidth=1, color=color,
        label=f"{own[0].policy}, {HIGH}th percentile",
    )  # fmt: skip


def _ticks(points: Sequence[Point], slo_ttft: float) -> list[int]:
    """Plain milliseconds within what is drawn, and one beyond each end."""
    low = 1e3 * min(slo_ttft, *(one.ttft.low for one in points))
    high = 1e3 * max(slo_ttft, *(max(one.ttft.high, one.ttft_high.value) for one in points))
    return [tick for tick in _TICKS if low / 2.5 <= tick <= high * 2.5]


def timeline(records: Sequence[PassRecord], name: str) -> None:
    """The beginning of a run, before more requests have come than can be told apart.

    Nothing is drawn where they all came in the first pass.
    """
    first = requests_of(records)[:_DRAWN]
    beginning = list(takewhile(lambda one: {row.request for row in one.rows} <= {*first}, records))
    if not beginning:
        return
    start = records[0].rows[0].request
    timeline_figure.draw(
        beginning,
        f"Who was computed when: {name}, the first {len(beginning)} of {len(records)} passes.",
        f"{name.capitalize()}: a line is a request; they stand in the order in which they got a "
        "slot.",
        names={number: str(number - start) for number in first},
    )


def timeline_of_stall(one: Stall, how: str) -> None:
    """The passes from the arrival of a long prompt on; nothing where too many run beside it."""
    records = [record for record in one.records if record.start >= one.due]
    requests = requests_of(records)
    if len(requests) > timeline_figure.MOST_REQUESTS:
        return
    names = {number: str(at) for at, number in enumerate(requests)} | {one.long: "long prompt"}
    timeline_figure.draw(
        records,
        f"Who was computed when: a long prompt is read {how}. Passes that read it: {one.passes}.",
        f"The long prompt is read {how}, beside the rows of the running requests.",
        names=names,
    )
