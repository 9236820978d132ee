"""From a comparison to a finding: medians, paired speedup, fraction of the variant's own limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from labkit.report.told.finding import Finding
from labkit.timing.compare import Comparison

# From a finding's metric to the time in a trace that it derives from, and its unit.
_METRICS: dict[str, tuple[str, str]] = {
    "decode_rate": ("tpot", "tok/s"),
    "prefill_rate": ("ttft", "tok/s"),
    "tpot": ("tpot", "s"),
    "ttft": ("ttft", "s"),
    "e2e_latency": ("e2e_latency", "s"),
}


LimitSeconds = Callable[[float], float]  # from bytes/s to the least seconds


def compared(
    comparison: Comparison,
    variant: str,
    *,
    notebook: str,
    technique: str,
    phase: str,
    metric: str,
    limit_seconds: LimitSeconds | None = None,
    limit_note: str | None = None,
    quality: Mapping[str, Any] | None = None,
    workload: Mapping[str, Any],
    model: Mapping[str, Any],
    hardware: Mapping[str, Any],
) -> Finding:
    """The finding of one variant of a comparison.

    metric: one of decode_rate, prefill_rate, tpot, ttft, e2e_latency. limit_seconds: a function
    from a probed bandwidth (bytes/s) to the least seconds of the metric's time; without it,
    limit_note says why there is no limit. The other parameters are fields of the finding.
    """
    return Finding(
        notebook=notebook,
        technique=technique,
        variant=variant,
        baseline=comparison.baseline,
        phase=phase,
        metric=metric,
        limit_note=limit_note,
        quality=dict(quality or {}),
        samples=comparison.rounds,
        workload=dict(workload),
        model=dict(model),
        hardware=dict(hardware),
        **_numbers(comparison, variant, metric, limit_seconds),
    )


def _numbers(
    comparison: Comparison, variant: str, metric: str, limit_seconds: LimitSeconds | None
) -> dict[str, Any]:
    """The fields of a finding that are computed from the comparison."""
    time, unit = _METRICS[metric]
    prompt_tokens = comparison.traces[variant][0].prompt_tokens

    def in_unit(seconds: float) -> float:
        if unit == "s":
            return seconds
        return (prompt_tokens if metric == "prefill_rate" else 1) / seconds

    ratio = comparison.speedup(variant, time)
    limit = fraction = None
    if limit_seconds is not None:
        limit = in_unit(float(np.median([*map(limit_seconds, comparison.bandwidth[variant])])))
        fraction = float(np.median(comparison.fractions(variant, limit_seconds, time)))
    return {
        "unit": unit,
        "value": in_unit(comparison.median(variant, time)),
        "baseline_value": in_unit(comparison.median(comparison.baseline, time)),
        "speedup": ratio.value,
        "speedup_low": ratio.low,
        "speedup_high": ratio.high,
        "verdict": comparison.verdict(variant, time),
        "limit": limit,
        "fraction_of_limit": fraction,
    }
