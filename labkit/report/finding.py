"""Finding: the one record a notebook leaves behind, and where a run keeps it."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from labkit.paths import atomic_write, project_root

PHASES = ("prefill", "decode", "end_to_end")
VERDICTS = ("faster", "slower", "inconclusive")
# The names of metrics.md.
METRICS = (
    "ttft",
    "itl",
    "tpot",
    "e2e_latency",
    "decode_rate",
    "prefill_rate",
    "output_throughput",
    "goodput",
    "acceptance_rate",
    "mean_accepted_length",
    "mbu",
    "mfu",
    "perplexity_ratio",
    "top1_agreement",
)


@dataclass(frozen=True)
class Finding:
    """One technique against its baseline: what was measured, how near to the limit, at what cost.

    speedup is a ratio of times (over 1 is faster) with its 95 % interval; value, baseline_value
    and limit are in `unit`; fraction_of_limit is of the variant's own limit, and where there is
    none, limit_note says why. Raises ValueError for anything that could not be true.
    """

    notebook: str
    technique: str
    variant: str
    baseline: str
    phase: str
    metric: str
    unit: str
    value: float
    baseline_value: float
    speedup: float
    speedup_low: float
    speedup_high: float
    verdict: str
    limit: float | None = None
    fraction_of_limit: float | None = None
    limit_note: str | None = None
    quality: dict[str, Any] = field(default_factory=dict)
    samples: int = 0
    workload: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, allowed in (("phase", PHASES), ("verdict", VERDICTS), ("metric", METRICS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} {getattr(self, name)!r} is unknown; allowed: {', '.join(allowed)}."
                )
        self._check_numbers()
        if not self.speedup_low <= self.speedup <= self.speedup_high:
            raise ValueError(f"the speedup {self.speedup} lies outside its own interval.")
        if self.limit is None and not self.limit_note:
            raise ValueError("a finding without a limit needs a limit_note that says why.")
        if (self.limit is None) != (self.fraction_of_limit is None):
            raise ValueError("limit and fraction_of_limit come together or not at all.")

    def _check_numbers(self) -> None:
        # A rate or a goodput may truly be nothing; a ratio of times may not.
        for name in ("value", "baseline_value", "limit", "fraction_of_limit"):
            number = getattr(self, name)
            if number is not None and not (math.isfinite(number) and number >= 0):
                raise ValueError(f"{name} must be finite and not negative; it is {number!r}.")
        for name in ("speedup", "speedup_low", "speedup_high"):
            number = getattr(self, name)
            if not (math.isfinite(number) and number > 0):
                raise ValueError(f"{name} must be a positive number; it is {number!r}.")

    @property
    def defect(self) -> str | None:
        """A sentence where the finding claims the impossible: more than its limit."""
        if self.fraction_of_limit is None or self.fraction_of_limit <= 1:
            return None
        return (
            f"{self.notebook}: {self.variant} ({self.phase}) stands at "
            f"{self.fraction_of_limit:.2f} of its limit. Above 1 is a defect in the limit or in "
            "the measurement."
        )


def run_folder() -> Path:
    """The folder of the run that executes this notebook; outputs/interactive in a live session."""
    given = os.environ.get("LABKIT_RUN_DIR")
    return Path(given) if given else project_root() / "outputs" / "interactive"


def live() -> bool:
    """Whether a person sits at this notebook, rather than a run."""
    return "LABKIT_HEADLESS" not in os.environ


def save_findings(notebook: str, findings: Sequence[Finding]) -> Path:
    """Write a notebook's findings, show them, and say loudly if one is above its limit."""
    from labkit.report.plots import show_findings

    wrong = [finding.notebook for finding in findings if finding.notebook != notebook]
    if wrong:
        raise ValueError(f"findings of {wrong[0]} cannot be saved as those of {notebook}.")
    path = run_folder() / "findings" / f"{notebook}.json"
    atomic_write(path, json.dumps([asdict(finding) for finding in findings], indent=1) + "\n")
    show_findings(findings)
    for finding in findings:
        if finding.defect:
            print(f"DEFECT: {finding.defect}", file=sys.stderr)
    return path


def save_samples(notebook: str, name: str, data: Mapping[str, Any]) -> Path:
    """Write raw samples into the run's traces folder."""
    path = run_folder() / "traces" / notebook / f"{name}.json"
    atomic_write(path, json.dumps(data) + "\n")
    return path


def load_findings(path: Path) -> list[Finding]:
    """Read findings back; ValueError where the file does not hold any."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path.name} is not a list of findings.")
    known = {entry.name for entry in fields(Finding)}
    return [Finding(**{k: v for k, v in row.items() if k in known}) for row in rows]
