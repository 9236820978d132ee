"""Rows of notebook 07's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from labkit.base.units import scaled, seconds
from labkit.engine.drive import Served
from labkit.engine.one_hash import Line
from labkit.engine.records import busy_seconds, mean_rows
from labkit.limits.batching import BatchLimit
from labkit.report.told.words import percent, times
from labkit.studies.batching_dry import Foreseen
from labkit.studies.batching_frontier import HIGH, Point
from labkit.studies.batching_memory import Memory
from labkit.studies.batching_stall import NOBODY, Stall
from labkit.studies.fused_stages import Share
from labkit.studies.lab import told_fraction, told_share
from labkit.studies.predictions import Prediction
from labkit.timing.statistics import Ratio, geometric_mean, interval

Row = dict[str, object]


def of_hash(lines: Sequence[Line]) -> list[Row]:
    """A row a way, with the beginning of its hash."""
    return [
        {
            "way": line.way.removesuffix(", here"),
            "hash": f"{line.digest[:16]}…",
            "answers": line.ends or "equal",
        }
        for line in lines
    ]


def of_limits(limits: Mapping[int, BatchLimit], forecast: Mapping[int, float]) -> list[Row]:
    """A row a batch: what a pass reads, its limit, the gain there, and the forecast."""
    return [
        {
            "requests in a pass": batch,
            "weights read": scaled(one.cost.weight_bytes, "B"),
            "keys and values read": scaled(one.cost.kv_read_bytes, "B"),
            "of the bytes": percent(one.kv_share),
            "limit of a pass": seconds(one.limit.seconds),
            "set by": one.limit.bound,
            "S(B)/S(1) at the limit": times(one.gain),
            "S(B)/S(1), forecast": times(forecast[batch]),
        }
        for batch, one in limits.items()
    ]


def of_forecasts(found: Mapping[str, Foreseen]) -> list[Row]:
    """A row a workload: the passes that it will take, and their time."""
    return [
        {
            "workload": name,
            "passes": len(one.passes),
            "rows of a pass": mean_rows(one.passes),
            "output tokens": one.tokens,
            "time": seconds(one.seconds),
            "output tokens/s": one.rate,
        }
        for name, one in found.items()
    ]


def of_workload(told: Prediction, foreseen: Foreseen, made: Served) -> Row:
    """A row of a workload: the foreseen passes and their time, beside those that came."""
    counts = {"passes, foreseen": len(foreseen.passes), "passes, made": len(made.passes)}
    return {"workload": told.name} | counts | told.time_cells()


def of_batch(
    one: BatchLimit,
    taken: float,
    gain: Ratio | None,
    at_limit: float | None,
    share: Ratio | None,
    fraction: float | None,
) -> Row:
    """A row of the leading table. taken: seconds of a pass. gain: None for one request. at_limit:
    the gain there; None, as fraction, where a limit was beaten."""
    return {
        "requests in a pass": one.batch,
        "a pass": seconds(taken),
        "output tokens/s": one.batch / taken,
        "S(B)/S(1)": "–" if gain is None else str(gain),
        "at the limit": "–" if at_limit is None else times(at_limit),
        "of the gain at the limit": percent(gain.value / at_limit) if gain and at_limit else "–",
        "of the bare work": "–" if share is None else told_share(share),
        "of its limit": told_fraction(fraction),
    }


def of_policy(name: str, rounds: Sequence[Served], rate: float, gain: str) -> Row:
    """A row of a policy: what its passes were, and what users saw."""
    last = rounds[-1].passes
    return {
        "policy": name,
        "output tokens/s": rate,
        "speedup": gain,
        "passes": len(last),
        "rows of a pass": mean_rows(last),
        "TTFT, median": of_seconds(_middle(rounds, "ttft")),
        "TPOT, median": of_seconds(_middle(rounds, "tpot")),
    }


def _middle(rounds: Sequence[Served], metric: str) -> Ratio:
    """The median over the requests of a round, with its interval over rounds."""
    return interval(
        [float(np.median([getattr(t, metric) for t in one.traces.values()])) for one in rounds]
    )


def of_own_time(name: str, one: Served) -> Row:
    """A row of an engine: where the time of a workload went."""
    busy, own = busy_seconds(one.passes), sum(record.own for record in one.passes)
    return {
        "variant": name,
        "passes": len(one.passes),
        "rows of a pass": mean_rows(one.passes),
        "a pass": seconds(busy / len(one.passes)),
        "engine's own time a pass": seconds(own / len(one.passes)),
        "of the pass": percent(own / busy),
        "neither": percent(max(0.0, 1 - (busy + own) / one.seconds)),
    }


def of_stall(name: str, rounds: Sequence[Stall]) -> Row:
    """A row of a way to read a long prompt, over its rounds."""
    return {
        "the long prompt is read": name,
        "passes": float(np.median([one.passes for one in rounds])),
        "usual gap": seconds(geometric_mean([one.usual for one in rounds])),
        "longest gap": of_seconds(interval([one.gap for one in rounds])),
        "over the usual gap": of_multiple(interval([one.stretch for one in rounds])),
        "its first token after": "–"
        if rounds[0].long == NOBODY
        else of_seconds(interval([one.ttft for one in rounds])),
    }


def of_seconds(value: Ratio) -> str:
    """A time with its interval: 12.3 ms [11.9 ms, 12.8 ms]."""
    return f"{seconds(value.value)} [{seconds(value.low)}, {seconds(value.high)}]"


def of_multiple(ratio: Ratio) -> str:
    """A ratio of times that is no speedup, with its interval: 2.1x [1.9, 2.3]."""
    return f"{times(ratio.value)} [{ratio.low:.3g}, {ratio.high:.3g}]"


def of_share(share: Share) -> str:
    """A share with its interval: 82 % [79, 85]."""
    return f"{share.value:.0%} [{100 * share.low:.0f}, {100 * share.high:.0f}]"


def of_point(one: Point) -> Row:
    """A row of the frontier."""
    rate, good = one.throughput, one.goodput
    return {
        "policy": one.policy,
        "load": percent(one.load),
        "due, requests/s": one.rate,
        "output tokens/s": f"{rate.value:,.0f} [{rate.low:,.0f}, {rate.high:,.0f}]",
        "TTFT, median": of_seconds(one.ttft),
        f"TTFT, {HIGH}th percentile": of_seconds(one.ttft_high),
        "TPOT, median": of_seconds(one.tpot),
        "SLOs met": of_share(one.met),
        "goodput, requests/s": f"{good.value:.3g} [{good.low:.3g}, {good.high:.3g}]",
    }


def of_memory(name: str, found: Memory, kv_bytes: float) -> list[Row]:
    """Two rows of a workload: a paged cache, and a contiguous one."""

    def row(kind: str, positions: float, share: float) -> Row:
        return {
            "workload": name,
            "cache": kind,
            "tokens": round(found.tokens),
            "positions held": round(positions),
            "bytes held": scaled(positions * kv_bytes, "B"),
            "of these, with a token": percent(share),
        }

    return [
        row("paged", found.paged, found.of_paged),
        row("contiguous, each slot as long as the longest request", found.contiguous,
            found.of_contiguous),
    ]  # fmt: skip
