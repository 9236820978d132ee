"""From a comparison to a finding: medians, paired speedup, fraction of the variant's own limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from labkit.report.finding import Finding
from labkit.timing.compare import Comparison

# metric of the finding -> (the time it derives from, its unit)
_METRICS: dict[str, tuple[str, str]] = {
    "decode_rate": ("tpot", "tok/s"),
    "prefill_rate": ("ttft", "tok/s"),
    "tpot": ("tpot", "s"),
    "ttft": ("ttft", "s"),
    "e2e_latency": ("e2e_latency", "s"),
}


def compared(
    comparison: Comparison,
    variant: str,
    *,
    notebook: str,
    technique: str,
    phase: str,
    metric: str,
    limit_seconds: Callable[[float], float] | None = None,
    limit_note: str | None = None,
    quality: Mapping[str, Any] | None = None,
    workload: Mapping[str, Any],
    model: Mapping[str, Any],
    hardware: Mapping[str, Any],
) -> Finding:
    """The finding of one variant of a comparison.

    limit_seconds: from the bandwidth of the moment (bytes/s) to the least seconds the metric's
    time could take; without it limit_note says why there is no limit.
    """
    time_of, unit = _METRICS[metric]
    prompt = comparison.traces[variant][0].prompt_tokens

    def in_unit(seconds: float) -> float:
        if unit == "s":
            return seconds
        return (prompt if metric == "prefill_rate" else 1) / seconds

    ratio = comparison.speedup(variant, time_of)
    limit = fraction = None
    if limit_seconds is not None:
        least = float(np.median([limit_seconds(rate) for rate in comparison.bandwidth[variant]]))
        limit = in_unit(least)
        fraction = float(np.median(comparison.fractions(variant, limit_seconds, time_of)))
    return Finding(
        notebook=notebook,
        technique=technique,
        variant=variant,
        baseline=comparison.baseline,
        phase=phase,
        metric=metric,
        unit=unit,
        value=in_unit(comparison.median(variant, time_of)),
        baseline_value=in_unit(comparison.median(comparison.baseline, time_of)),
        speedup=ratio.value,
        speedup_low=ratio.low,
        speedup_high=ratio.high,
        verdict=comparison.verdict(variant, time_of),
        limit=limit,
        fraction_of_limit=fraction,
        limit_note=limit_note,
        quality=dict(quality or {}),
        samples=comparison.rounds,
        workload=dict(workload),
        model=dict(model),
        hardware=dict(hardware),
    )
