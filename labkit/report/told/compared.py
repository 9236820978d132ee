"""From a comparison to a finding: one estimator, the share of the bare read, the run's limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from labkit.base.units import seconds
from labkit.report.told.finding import Finding
from labkit.report.told.words import amount
from labkit.timing.compare import Comparison, again
from labkit.timing.statistics import (
    Ratio,
    direction,
    geometric_mean,
    holm,
    interval,
    narrow_enough,
    no_difference,
    paired_ratio,
)

# From a finding's metric to the time in a trace that it derives from, and its unit.
_METRICS: dict[str, tuple[str, str]] = {
    "decode_rate": ("tpot", "tok/s"),
    "prefill_rate": ("ttft", "tok/s"),
    "tpot": ("tpot", "s"),
    "ttft": ("ttft", "s"),
    "e2e_latency": ("e2e_latency", "s"),
    "output_throughput": ("seconds_a_token", "tok/s"),
    "itl": ("e2e_latency", "s"),  # of a trace that is one gap: the longest, say
}


@dataclass(frozen=True)
class Least:
    """The least seconds of a metric's time: by the run's best sustained rates, and by its slowest
    (None where that is not known)."""

    seconds: float
    slowest: float | None = None

    def standing(self, taken: float) -> Least | None:
        """This limit; None where something took less seconds: then it was none, and no table, plot
        or sentence tells it."""
        return None if self.seconds > taken else self

    def fraction(self, taken: float) -> float | None:
        """Limit over measured time; None where the limit was beaten."""
        return None if self.standing(taken) is None else self.seconds / taken


def told_value(
    comparison: Comparison, variant: str, time: str, told: Callable[[float], str] = seconds
) -> str:
    """A variant's time for a table; of the control, also the first turn that it is compared with.

    time: of a trace. told: from seconds to words. The row's speedup is the baseline's row over
    what stands here; of the control, the first turn over the second.
    """
    value = told(comparison.mean(variant, time))
    if variant != comparison.control:
        return value
    return f"{value} (first turn: {told(geometric_mean(comparison.base(variant, time)))})"


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

    metric: one of decode_rate, prefill_rate, tpot, ttft, e2e_latency, output_throughput, itl.
    least: without it, limit_note says why there is no limit. The other parameters are fields of the
    finding.
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
        baseline_bytes=_bytes_of(comparison, comparison.baseline, phase),
        weights=weights,
        quality=dict(quality or {}),
        workload=dict(workload),
        model=dict(model),
        hardware=dict(hardware),
        engine=dict(engine or {}),
        **_speedup(comparison, variant, time),
        **_share(comparison, variant, time, least),
        **_values(comparison, variant, metric, least, limit_note),
    )


def _speedup(comparison: Comparison, variant: str, time: str) -> dict[str, Any]:
    control = comparison.speedup(comparison.control, time)
    return _of_ratio(comparison.speedup(variant, time)) | {
        "verdict": comparison.verdicts(time).get(variant, "inconclusive"),
        "control_low": control.low,
        "control_high": control.high,
        "samples": comparison.rounds,
    }


def _of_ratio(ratio: Ratio) -> dict[str, Any]:
    return {
        "speedup": ratio.value,
        "speedup_low": ratio.low,
        "speedup_high": ratio.high,
        "p_value": ratio.p_value,
        "smallest_effect": ratio.smallest_effect,
        "ratios": list(ratio.rounds),
    }


def _share(comparison: Comparison, variant: str, time: str, least: Least | None) -> dict[str, Any]:
    share, alone = comparison.share(variant, time), comparison.bare_times(variant, time)
    if share is None or alone is None:
        return {"bare_note": "nothing that only reads or multiplies ran beside it"}
    told: dict[str, Any] = {
        "of_bare_read": share.value,
        "of_bare_read_low": share.low,
        "of_bare_read_high": share.high,
        "bare_note": comparison.bare[variant.removesuffix(again("")), time].name,
    }
    if least is None:
        return told
    over = interval([least.seconds / one for one in alone])
    return told | {
        "bare_over_limit": over.value,
        "bare_over_limit_low": over.low,
        "bare_over_limit_high": over.high,
    }


def _bytes_of(comparison: Comparison, name: str, phase: str) -> float | None:
    """Bytes that a decode step of a variant reads, where it was held against reading them."""
    held = comparison.bare.get((name, "tpot")) if phase == "decode" else None
    return None if held is None else held.nbytes


def rebased(finding: Finding, comparison: Comparison, other: str) -> Finding:
    """The same finding against another variant of its comparison, paired within the same rounds.

    The control is that of the comparison: its own baseline against itself. The verdict waits for
    `decided`, which corrects it together with the others.
    """
    time, unit = _METRICS[finding.metric]
    ratio = paired_ratio(comparison.values(other, time), comparison.values(finding.variant, time))
    return replace(
        finding,
        baseline=other,
        baseline_value=finding.value * (ratio.value if unit == "s" else 1 / ratio.value),
        baseline_bytes=_bytes_of(comparison, other, finding.phase),
        verdict="inconclusive",
        **_of_ratio(ratio),
    )


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
        "baseline_value": in_unit(geometric_mean(comparison.base(variant, time))),
    }
    if least is None:
        return told | {"limit_note": note}
    if least.standing(taken) is None:
        return told | {"limit_note": _beaten(in_unit(least.seconds), unit)}
    return told | {
        "limit": in_unit(least.seconds),
        "limit_low": in_unit(least.slowest) if least.slowest else None,
        "fraction_of_limit": least.fraction(taken),
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
