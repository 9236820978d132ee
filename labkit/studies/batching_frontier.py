"""Latency against throughput: what users see where requests come by themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from labkit.engine.drive import SLO, Served
from labkit.studies.fused_stages import Share, share_of
from labkit.timing.statistics import Ratio, interval

HIGH = 90  # the percentile of TTFT that is told beside the median


class Point(NamedTuple):
    """A policy at one rate of arrivals; every value with its 95 % interval over rounds.

    rate: requests a second that were due, over all rounds. throughput: tokens a second. ttft,
    ttft_high: the median and a high percentile of a round. tpot: the median. met: the share of
    requests that met the SLOs. goodput: requests a second that did.
    """

    policy: str
    load: float
    rate: float
    throughput: Ratio
    ttft: Ratio
    ttft_high: Ratio
    tpot: Ratio
    met: Share
    goodput: Share


def point(policy: str, load: float, rounds: Sequence[Served], slo: SLO) -> Point:
    """What the rounds of one policy at one rate say together."""

    def over(value: Callable[[Served], float]) -> Ratio:
        return interval([value(one) for one in rounds])

    return Point(
        policy,
        load,
        _rate(rounds),
        over(lambda one: one.output_throughput),
        over(lambda one: float(np.median(_ttfts(one)))),
        over(lambda one: float(np.percentile(_ttfts(one), HIGH))),
        over(lambda one: float(np.median(_tpots(one)))),
        _within(share_of(np.array([_met(one, slo) for one in rounds])), 1.0),
        _within(share_of(np.array([one.goodput(slo) for one in rounds])), np.inf),
    )


def _within(share: Share, most: float) -> Share:
    """The interval of a value that is never below 0."""
    return Share(share.value, max(0.0, share.low), min(most, share.high))


def _rate(rounds: Sequence[Served]) -> float:
    """All gaps over their time together. The mean of the rates of short rounds would lie above."""
    due = [[trace.due for trace in one.traces.values()] for one in rounds]
    return sum(len(of) - 1 for of in due) / sum(max(of) - min(of) for of in due)


def _ttfts(one: Served) -> list[float]:
    return [trace.ttft for trace in one.traces.values()]


def _tpots(one: Served) -> list[float]:
    """Of those answers that have one."""
    return [trace.tpot for trace in one.traces.values() if trace.tpot is not None]


def _met(one: Served, slo: SLO) -> float:
    """The share of requests that met the SLOs; one that failed did not."""
    every = len(one.traces) + len(one.failed)
    return sum(map(slo.met, one.traces.values())) / every
