"""The findings of notebook 05: one setting on each kind of task, over prompts."""

from __future__ import annotations

from dataclasses import replace

from labkit.optimize.speculative.predict import mixed_speedup
from labkit.report.told.finding import Finding
from labkit.studies.speculative_measured import Measurements
from labkit.studies.speculative_prompts import Rounds
from labkit.studies.speculative_tables import spaced
from labkit.studies.speculative_tasks import AUTOMATIC, PLAIN
from labkit.timing.statistics import geometric_mean


def kind_finding(study: Measurements, kind: str) -> Finding:
    """What was found of the automatic setting on one kind of task.

    Its limit is that of a plain pass, over the tokens that passes give at the limit's cost of rows.
    Its interval, ratios and p-value are over prompts where the kind has several.
    """
    rounds, cases = study.timed[kind], study.kinds[kind]
    checked = zip(study.cases, study.checked[AUTOMATIC], strict=True)
    same = all(one.same.lossless for case, one in checked if case.task.kind == kind)
    accounts = study.accounts(AUTOMATIC, kind)
    found = study.lab.finding(
        rounds.comparison,
        AUTOMATIC,
        cost=study.one_pass(kind),
        tokens=geometric_mean([mixed_speedup(one, study.limit) for one in accounts]),
        weights=study.target.format,
        quality={"lossless": same, "tokens_compared": sum(len(case.answer) for case in cases)},
        workload={
            "kind": kind,
            "new_tokens": study.new_tokens,
            "prompts": len(cases),
            "interval_over": "prompts" if rounds.over_prompts else "rounds",
        },
        model={"decoder": study.target.name},
    )
    return _over_prompts(replace(found, variant=f"{spaced(kind)}, {AUTOMATIC}"), rounds)


def _over_prompts(found: Finding, rounds: Rounds) -> Finding:
    """The same finding with its interval over prompts, and held against the reads of its passes."""
    ratio, share = rounds.speedup(AUTOMATIC), rounds.share(AUTOMATIC)
    told = replace(
        found,
        speedup=ratio.value,
        speedup_low=ratio.low,
        speedup_high=ratio.high,
        p_value=ratio.p_value,
        smallest_effect=ratio.smallest_effect,
        ratios=list(ratio.rounds),
    )
    if share is None:
        return told
    bare = rounds.comparison.bare[PLAIN, "tpot"].name
    return replace(
        told,
        of_bare_read=share.value,
        of_bare_read_low=share.low,
        of_bare_read_high=share.high,
        bare_note=f"{bare}, for the passes that it took",
    )
