"""The findings of notebook 07."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from labkit.report.told.finding import Finding
from labkit.studies.batching_answers import Mixed
from labkit.studies.batching_measured import ENGINE_ONE, IN_FLIGHT, Measurements
from labkit.studies.batching_others import findings
from labkit.studies.batching_runs import batch_name
from labkit.studies.batching_stall import FIXED, PACED
from labkit.timing.compare import Comparison

_SCHEDULED = "a scheduler chooses the passes of a workload, so no limit of the machine is its limit"
_GAP = "a gap between tokens may be as short as a pass of the running requests alone"


def all_findings(study: Measurements, mixed: Mixed) -> list[Finding]:
    """Passes of several requests, the engine, the policies, and the long prompt."""
    quality = {
        "lossless": all(one.lossless for one in mixed.same),
        "tokens_compared": sum(one.tokens for one in mixed.same),
    }
    tailed: dict[str, Any] = {
        "requests": study.requests, "slots": study.slots, "prompt_tokens": study.prompt_tokens,
    }  # fmt: skip
    equal = tailed | {"new_tokens": study.new_tokens}
    tailed |= {"answers": "lognormal", **study.work.tail._asdict()}
    return [
        *(_of_batch(study, batch, quality) for batch in study.limits if batch > 1),
        _of_workload(study, study.engine, ENGINE_ONE, quality, equal | {"requests": 1}),
        _of_workload(study, study.engine, study.many_name, quality, equal),
        _of_workload(study, study.policies[0], IN_FLIGHT, quality, tailed),
        *(_of_gap(study, name, quality) for name in (FIXED, PACED)),
        *(findings(study.lab, study.others) if study.others else ()),
    ]


def _shared(study: Measurements, quality: Mapping[str, Any]) -> dict[str, Any]:
    """What all findings tell of the decoder and its answers."""
    model = {"decoder": study.target.name}
    return {"weights": study.target.format, "quality": quality, "model": model}


def _of_batch(study: Measurements, batch: int, quality: Mapping[str, Any]) -> Finding:
    return study.lab.finding(
        study.sweep, batch_name(batch), metric="output_throughput", cost=study.cost(batch),
        tokens=batch, workload={"context": study.lab.middle, "batch": batch},
        **_shared(study, quality),
    )  # fmt: skip


def _of_workload(
    study: Measurements,
    comparison: Comparison,
    name: str,
    quality: Mapping[str, Any],
    workload: Mapping[str, Any],
) -> Finding:
    return study.lab.finding(
        comparison, name, phase="end_to_end", metric="output_throughput", workload=workload,
        limit_note=_SCHEDULED, **_shared(study, quality),
    )  # fmt: skip


def _of_gap(study: Measurements, name: str, quality: Mapping[str, Any]) -> Finding:
    comparison, _ = study.stalls
    found = study.lab.finding(
        comparison, name, phase="end_to_end", metric="itl", limit_note=_GAP,
        workload={
            "long_prompt": study.long_prompt, "beside": study.beside,
            "prompt_tokens": study.prompt_tokens,
        },
        **_shared(study, quality),
    )  # fmt: skip
    what = "longest gap, long prompt"
    return replace(found, variant=f"{what} {name}", baseline=f"{what} {found.baseline}")
