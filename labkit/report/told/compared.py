"""From a comparison to a finding: one estimator, the share of the bare read, the run's limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from labkit.report.told.finding import Finding
from labkit.report.told.words import amount
from labkit.timing.compare import Comparison, again
from labkit.timing.statistics import direction, holm, narrow_enough, no_difference

# From a finding's metric to the time in a trace that it derives from, and its unit.
_METRICS: dict[str, tuple[str, str]] = {
    "decode_rate": ("tpot", "tok/s"),
    "prefill_rate": ("ttft", "tok/s"),
    "tpot": ("tpot", "s"),
    "ttft": ("ttft", "s"),
    "e2e_latency": ("e2e_latency", "s"),
}


@dataclass(frozen=True)
class Least:
    """The least seconds of a metric's time: by the run's best sustained rates, and by its slowest
    (None where that is not known)."""

    seconds: float
    slowest: float | None = None


def compared(
    comparison: Comparison,
    variant: str,
    *,
    notebook: str,
    technique: str,
    phase: str,
    metric: str,
    least: Least | None = None,
    limit_note: str | None = None,
    bytes_read: float | None = None,
    weights: str = "",
    quality: Mapping[str, Any] | None = None,
    workload: Mapping[str, Any],
    model: Mapping[str, Any],
    hardware: Mapping[str, Any],
    engine: Mapping[str, Any] | None = None,
) -> Finding:
    """The finding of one variant of a comparison; its verdict is of this comparison alone.

    metric: one of decode_rate, prefill_rate, tpot, ttft, e2e_latency. least: without it, limit_note
    says why there is no limit. The other parameters are fields of the finding.
    """
    time, _ = _METRICS[metric]
    return Finding(
        notebook=notebook,
        technique=technique,
        variant=variant,
        baseline=comparison.baseline,
        phase=phase,
        metric=metric,
        bytes_read=bytes_read,
        weights=weights,
        quality=dict(quality or {}),
        workload=dict(workload),
        model=dict(model),
        hardware=dict(hardware),
        engine=dict(engine or {}),
        **_speedup(comparison, variant, time),
        **_share(comparison, variant, time),
        **_values(comparison, variant, metric, least, limit_note),
    )


def _speedup(comparison: Comparison, variant: str, time: str) -> dict[str, Any]:
    ratio = comparison.speedup(variant, time)
    control = comparison.speedup(comparison.control, time)
    return {
        "speedup": ratio.value,
        "speedup_low": ratio.low,
        "speedup_high": ratio.high,
        "verdict": comparison.verdicts(time).get(variant, "inconclusive"),
        "p_value": ratio.p_value,
        "smallest_effect": ratio.smallest_effect,
        "control_low": control.low,
        "control_high": control.high,
        "samples": comparison.rounds,
        "ratios": list(ratio.rounds),
    }


def _share(comparison: Comparison, variant: str, time: str) -> dict[str, Any]:
    share = comparison.share(variant, time)
    if share is None:
        return {"bare_note": "nothing that only reads or multiplies ran beside it"}
    return {
        "of_bare_read": share.value,
        "of_bare_read_low": share.low,
        "of_bare_read_high": share.high,
        "bare_note": comparison.bare[variant.removesuffix(again("")), time].name,
    }


def _values(
    comparison: Comparison, variant: str, metric: str, least: Least | None, note: str | None
) -> dict[str, Any]:
    """Value, baseline and limit, all in the metric's unit."""
    time, unit = _METRICS[metric]
    tokens = comparison.traces[variant][0].prompt_tokens if metric == "prefill_rate" else 1

    def in_unit(seconds: float) -> float:
        return seconds if unit == "s" else tokens / seconds

    taken = comparison.mean(variant, time)
    told: dict[str, Any] = {
        "unit": unit,
        "value": in_unit(taken),
        # Of the control this is the baseline's first turn alone, as its speedup is.
        "baseline_value": in_unit(taken * comparison.speedup(variant, time).value),
    }
    if least is None:
        return told | {"limit_note": note}
    if least.seconds > taken:
        return told | {"limit_note": _beaten(in_unit(least.seconds), unit)}
    return told | {
        "limit": in_unit(least.seconds),
        "limit_low": in_unit(least.slowest) if least.slowest else None,
        "fraction_of_limit": least.seconds / taken,
    }


def _beaten(limit: float, unit: str) -> str:
    """Why a limit that was beaten is not told."""
    return (
        f"it was faster than {amount(limit, unit)}, the limit by the best rate that this run "
        "measured beforehand; so the machine was faster in these rounds than it was then"
    )


def decided(findings: Sequence[Finding]) -> list[Finding]:
    """The same findings with verdicts that are corrected for all of them together (Holm).

    A verdict also needs a control of its own comparison that shows no difference, and that is
    narrower than the effect. Findings without a p-value keep theirs.
    """
    held = holm({i: f.p_value for i, f in enumerate(findings) if f.p_value is not None})
    return [
        finding
        if finding.p_value is None
        else replace(finding, verdict=_verdict(finding, i in held))
        for i, finding in enumerate(findings)
    ]


def _verdict(finding: Finding, held: bool) -> str:
    low, high = finding.control_low, finding.control_high
    if not held or low is None or high is None:
        return "inconclusive"
    sure = no_difference(low, high) and narrow_enough(finding.speedup, (low, high))
    return direction(finding.speedup) if sure else "inconclusive"
