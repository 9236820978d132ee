"""Finding: the saved result of one variant against its baseline."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

PHASES = ("prefill", "decode", "end_to_end")
VERDICTS = ("faster", "slower", "inconclusive")
# Names of metrics; labkit.timing.trace derives most of them from timestamps.
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
    """One variant against its baseline: how fast, how close to its limit, at what cost in answers.

    speedup: baseline time over variant time (over 1 is faster), with its 95 % interval. value,
    baseline_value and limit: in `unit`. fraction_of_limit: of the variant's own limit; limit_note
    says why there is no limit. quality: how far the answers differ. samples: the number of rounds.
    Raises ValueError for an unknown name and for numbers that cannot be true.
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
            raise ValueError(
                f"the speedup {self.speedup} lies outside its own interval, {self.speedup_low} to "
                f"{self.speedup_high}."
            )
        if self.limit is None and not self.limit_note:
            raise ValueError("a finding without a limit needs a limit_note that says why.")
        if (self.limit is None) != (self.fraction_of_limit is None):
            raise ValueError("limit and fraction_of_limit come together or not at all.")

    def _check_numbers(self) -> None:
        # A goodput can be 0; a ratio of times cannot.
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
        """A sentence if the value is above its limit, which is impossible; else None."""
        if self.fraction_of_limit is None or self.fraction_of_limit <= 1:
            return None
        return (
            f"{self.notebook}: {self.variant} ({self.phase}) reaches "
            f"{self.fraction_of_limit:.2f} of its limit. Above 1, the limit or the measurement is "
            "wrong."
        )


def load_findings(path: Path) -> list[Finding]:
    """Read findings back. Raises ValueError or TypeError where the file holds none."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path.name} is not a list of findings.")
    known = {entry.name for entry in fields(Finding)}
    return [Finding(**{k: v for k, v in row.items() if k in known}) for row in rows]
