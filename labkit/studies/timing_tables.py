"""The rows of the tables of notebook 01."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from labkit.base.units import seconds
from labkit.report.told.compared import told_value
from labkit.report.told.words import effect
from labkit.studies.pitfalls import clock_step
from labkit.studies.timing_planted import told_rounds
from labkit.timing.compare import Comparison
from labkit.timing.trace import Trace


def identity(naive: Sequence[float], work: str, real: float) -> list[dict[str, object]]:
    """What the naive benchmark timed (seconds), beside the clocks' steps and real work."""
    taken = {
        "the identity, as printed above (five times)": float(np.median(naive)),
        "smallest step of time.time()": clock_step(time.time),
        "smallest step of time.perf_counter()": clock_step(time.perf_counter),
        work: real,
    }
    return [{"what": what, "time": seconds(value)} for what, value in taken.items()]


def lengths(answers: Mapping[int, Trace]) -> list[dict[str, object]]:
    """A row for each length of answer: total time over tokens, then TTFT and TPOT."""
    return [
        {
            "new tokens": n,
            "total / tokens": seconds(trace.e2e_latency / n),
            "TTFT": seconds(trace.ttft),
            "TPOT": seconds(trace.tpot) if trace.tpot else "undefined",
        }
        for n, trace in answers.items()
    ]


def variants(comparison: Comparison, names: Iterable[str]) -> list[dict[str, object]]:
    """Variants of a comparison; the control may be among them."""
    return [_variant(comparison, name) for name in names]


def _variant(comparison: Comparison, name: str) -> dict[str, object]:
    ratio, first = comparison.speedup(name), comparison.first.get(name)
    alone = name == comparison.baseline
    return {
        "variant": name,
        "TPOT": told_value(comparison, name, "tpot"),
        "speedup": "–" if alone else str(ratio),
        "could have seen": "–" if alone else effect(ratio.smallest_effect),
        "first call": seconds(first.tpot) if first and first.tpot else "–",
        "outliers": len(comparison.flagged(name)),
    }


def rounds(needed: Mapping[float, int], made: int) -> list[dict[str, object]]:
    """The rounds that each true change needs to be seen. made: the rounds of this run."""
    return [
        {"true change": f"{effect:.0%}", "rounds": told_rounds(count), "made here": made >= count}
        for effect, count in needed.items()
    ]
