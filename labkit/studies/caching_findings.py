"""The findings of notebook 06: first tokens, loads, no hits, identical requests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from labkit.report.told.compared import Least, compared
from labkit.report.told.finding import Finding
from labkit.studies.caching_alone import ANSWERED, OFF
from labkit.studies.caching_first import CACHED
from labkit.studies.caching_loads import ON
from labkit.studies.caching_measured import Measurements
from labkit.studies.caching_proof import quality
from labkit.studies.lab import ours
from labkit.timing.compare import Comparison

_NO_LIMIT = "a load of many requests has no one limit: its passes depend on the engine"
_NOTHING_SAVED = "a request that finds nothing can save nothing"
_A_FILE = "an answer that is only looked up needs no pass"


def every(study: Measurements) -> Iterator[Finding]:
    """All of them, in the order of the notebook; a variant that dropped out has none."""
    yield from first_tokens(study)
    yield from whole_loads(study)
    yield from alone(study)


def first_tokens(study: Measurements) -> Iterator[Finding]:
    """First tokens from each cache, against computing the prefix again."""
    first, proved = study.first, quality(study.proved)
    for length, found in first.comparisons.items():
        for way in (way for way in CACHED if way in found.variants):
            made = _finding(
                study, found, way, "ttft", "prefill", proved, least=first.least(way, length),
                workload={"shared_tokens": length, "own_tokens": first.own, "new_tokens": 1},
            )  # fmt: skip
            yield replace(made, variant=f"{length:,} shared tokens {way}")


def whole_loads(study: Measurements) -> Iterator[Finding]:
    """Loads with a cache, against the same without one."""
    for name, load in study.whole.items():
        same = {"lossless": load.same == 1, "tokens_compared": load.tokens_compared}
        for way in load.comparison.variants:
            if way == load.comparison.baseline:
                continue
            told = {"hit_rate": load.hit_rate if way == ON else load.recalled}
            made = _finding(
                study, load.comparison, way, "output_throughput", "end_to_end", same,
                note=_NO_LIMIT,
                workload=load.workloads[0].describe() | study.asked() | told,
            )  # fmt: skip
            yield replace(made, variant=f"{name}, {way}")


def alone(study: Measurements) -> Iterator[Finding]:
    """Requests that find nothing, and identical ones."""
    nothing, identical = study.nothing, study.identical
    asked = {"prompt_tokens": nothing.tokens, "new_tokens": nothing.new_tokens}
    for way in nothing.comparison.variants:
        if way != OFF:
            made = _finding(
                study, nothing.comparison, way, "e2e_latency", "end_to_end",
                quality(study.proved), note=_NOTHING_SAVED, workload=asked,
            )  # fmt: skip
            yield replace(made, variant=f"no hits, {way}")
    equal, count = identical.same
    if ANSWERED in identical.comparison.variants:
        made = _finding(
            study, identical.comparison, ANSWERED, "e2e_latency", "end_to_end",
            {"lossless": equal == count, "tokens_compared": count * identical.new_tokens},
            note=_A_FILE, workload=asked | {"prompt_tokens": identical.tokens},
        )  # fmt: skip
        yield replace(made, variant=f"identical request, {ANSWERED}")


def _finding(
    study: Measurements,
    found: Comparison,
    variant: str,
    metric: str,
    phase: str,
    quality: Mapping[str, Any],
    *,
    workload: Mapping[str, Any],
    least: Least | None = None,
    note: str | None = None,
) -> Finding:
    lab = study.lab
    return compared(
        found,
        variant,
        notebook=lab.notebook,
        technique=lab.technique,
        phase=phase,
        metric=metric,
        least=least,
        limit_note=note,
        weights=study.target.format or lab.dtype,
        quality=quality,
        workload=workload,
        model=lab.loaded.describe() | {"decoder": study.target.name},
        hardware=lab.hardware.describe(),
        engine=ours(),
    )
