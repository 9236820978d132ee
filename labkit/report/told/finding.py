"""Finding: the saved result of one variant against its baseline."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any

from labkit.base.paths import json_in, json_text

SCHEMA = 2  # of the JSON files; a file of another schema is not read

PHASES = ("prefill", "decode", "end_to_end")
VERDICTS = ("faster", "slower", "inconclusive")
# Metrics and their units; labkit.timing.trace derives most of them from timestamps.
METRICS = {
    "ttft": "s",
    "itl": "s",
    "tpot": "s",
    "e2e_latency": "s",
    "decode_rate": "tok/s",
    "prefill_rate": "tok/s",
    "output_throughput": "tok/s",
    "goodput": "req/s",
    "acceptance_rate": "",
    "mean_accepted_length": "tokens",
    "mbu": "",
    "mfu": "",
    "perplexity_ratio": "",
    "top1_agreement": "",
}

_LARGEST = sys.float_info.max  # above it, an integer fails in arithmetic
_ROUNDING = 1e-6  # relative; value, limit and fraction are computed from the same numbers
# The share of the bare work, at most. A bare read may be the slower one of a pair: where nothing is
# compiled it is torch's sum (34 GB/s where the native reader gets 42), and memory has states (24 to
# 42 GB/s on one machine). All that together is less than a factor of 2.
_MOST_OF_BARE = 2.0
# What can be 0 (a goodput, say), and what cannot, as a ratio of times.
_NOT_NEGATIVE = ("value", "baseline_value", "limit", "limit_low", "fraction_of_limit",
                 "smallest_effect", "bytes_read", "baseline_bytes", "samples")  # fmt: skip
_POSITIVE = ("speedup", "speedup_low", "speedup_high", "of_bare_read", "of_bare_read_low",
             "of_bare_read_high", "bare_over_limit", "bare_over_limit_low",
             "bare_over_limit_high", "control_low", "control_high")  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One variant against its baseline: how fast, how close to its limit, at what cost in answers.

    value, baseline_value, limit, limit_low: in `unit`. speedup: baseline time over variant time
    (over 1 is faster), with its 95 % interval; ratios: the same of each round, of which it is the
    geometric mean, so that value over baseline_value gives it too. p_value: of the speedup lying
    within 1 ± 1 %, for this comparison alone; verdict: after the correction for all comparisons of
    the notebook. smallest_effect: the least true change that these rounds would have seen four
    times in five (0.05 is 5 %). control_low, control_high: the interval of the A/A control.
    limit: of the variant's own bytes and FLOPs, by the machine's best sustained rates in this run;
    limit_low: the same by the slowest sustained rate; limit_note says why there is no limit.
    of_bare_read: the time to read the variant's bytes (or to do its products) and nothing else,
    over the variant's time, in the same rounds, with its interval; bare_note says what it is held
    against, or why there is nothing. bare_over_limit: the rate of that bare work over the rate of
    the limit, with its interval; above 1, the machine gave more in these rounds than in the spells
    that the limit is from. bytes_read: bytes of weights and cache that a decode step reads;
    baseline_bytes: those that the baseline's step reads. weights: their format, as they are read.
    engine: name, version, build and link.
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
    p_value: float | None = None
    smallest_effect: float | None = None
    control_low: float | None = None
    control_high: float | None = None
    limit: float | None = None
    limit_low: float | None = None
    fraction_of_limit: float | None = None
    limit_note: str | None = None
    of_bare_read: float | None = None
    of_bare_read_low: float | None = None
    of_bare_read_high: float | None = None
    bare_note: str | None = None
    bytes_read: float | None = None
    weights: str = ""
    samples: int = 0
    ratios: list[float] = field(default_factory=list)
    quality: dict[str, Any] = field(default_factory=dict)
    workload: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    baseline_bytes: float | None = None
    bare_over_limit: float | None = None
    bare_over_limit_low: float | None = None
    bare_over_limit_high: float | None = None

    def __post_init__(self) -> None:
        self._check_names()
        self._check_numbers()
        self._check_interval("speedup")
        for name in ("of_bare_read", "bare_over_limit"):
            if getattr(self, name) is not None:
                self._check_interval(name)
        self._check_limit()

    def _check_names(self) -> None:
        for name, allowed in (("phase", PHASES), ("verdict", VERDICTS), ("metric", METRICS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} {getattr(self, name)!r} is unknown; allowed: {', '.join(allowed)}."
                )
        if self.unit != METRICS[self.metric]:
            raise ValueError(
                f"unit {self.unit!r} is not that of {self.metric}; allowed: "
                f"{METRICS[self.metric]!r}."
            )

    def _check_numbers(self) -> None:
        for name in _NOT_NEGATIVE:
            number = getattr(self, name)
            if number is not None and not 0 <= number <= _LARGEST:
                raise ValueError(f"{name} must be finite and not negative; it is {number!r:.80}.")
        told = [(name, getattr(self, name)) for name in _POSITIVE]
        for name, number in [*told, *(("a ratio", one) for one in self.ratios)]:
            if number is not None and not 0 < number <= _LARGEST:
                raise ValueError(f"{name} must be a positive number; it is {number!r:.80}.")
        if self.p_value is not None and not 0 <= self.p_value <= 1:
            raise ValueError(f"p_value must lie between 0 and 1; it is {self.p_value!r:.80}.")
        if self.of_bare_read is not None and self.of_bare_read > _MOST_OF_BARE:
            raise ValueError(
                f"of_bare_read must be at most {_MOST_OF_BARE:g}; it is {self.of_bare_read!r}. The "
                "work was not done, or the bare work was disturbed."
            )

    def _check_interval(self, name: str) -> None:
        value, low, high = (getattr(self, name + end) for end in ("", "_low", "_high"))
        if low is None or high is None or not low <= value <= high:
            raise ValueError(f"the {name} {value} lies outside its own interval, {low} to {high}.")

    def _check_limit(self) -> None:
        if self.limit is None and not self.limit_note:
            raise ValueError("a finding without a limit needs a limit_note that says why.")
        if (self.limit is None) != (self.fraction_of_limit is None):
            raise ValueError("limit and fraction_of_limit come together or not at all.")
        if self.limit is None or self.fraction_of_limit is None:
            return
        if self.fraction_of_limit > 1:
            raise ValueError(
                f"{self.variant} ({self.phase}) would reach {self.fraction_of_limit:.2f} of its "
                "limit. Above 1, the limit or the measurement is wrong."
            )
        times, low = self.unit == "s", self.limit_low
        slow, fast = (low, self.limit) if times else (self.limit, low)
        if slow is not None and fast is not None and slow < fast * (1 - _ROUNDING):
            raise ValueError(
                f"limit_low {low:g} {self.unit} is faster than the limit {self.limit:g}; it is of "
                "the slowest rate."
            )
        share = self.fraction_of_limit
        told = self.limit * share if not times else self.limit / share if share else math.inf
        if not math.isclose(told, self.value, rel_tol=_ROUNDING):
            raise ValueError(
                f"limit {self.limit:g} and fraction {self.fraction_of_limit:g} give {told:g}, not "
                f"the value {self.value:g}."
            )


# What JSON may hold for a field, by its annotation.
_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, NoneType),
    "int": (int,),
    "float": (float, int),
    "float | None": (float, int, NoneType),
    "list[float]": (list,),
    "dict[str, Any]": (dict,),
}


def to_json(findings: Sequence[Finding], run: Mapping[str, Any] | None = None) -> str:
    """The text of a findings file: the schema's number, and one object a finding.

    run: what a reader has to know of the run that they come from.
    """
    about = {} if run is None else {"run": dict(run)}
    rows = [asdict(finding) for finding in findings]
    return json_text({"schema": SCHEMA, **about, "findings": rows}, indent=1) + "\n"


def rows_in(path: Path) -> list[dict[str, Any]]:
    """The findings of a file as plain objects, not yet checked.

    Raises ValueError, in one line, where it cannot be read or holds none of this schema.
    """
    held = json_in(path)
    if not isinstance(held, dict | list):
        raise ValueError(f"{path.name} holds no findings.")
    schema = held.get("schema") if isinstance(held, dict) else 1
    if type(schema) is not int or schema != SCHEMA:
        raise ValueError(f"{path.name} has schema {schema!r}; this version reads {SCHEMA}.")
    rows = held.get("findings") if isinstance(held, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path.name} holds no list of findings.")
    return rows


def _fits(value: object, kind: str) -> bool:
    """Whether JSON holds what a field is for; a truth value is no number."""
    if kind == "list[float]":
        return isinstance(value, list) and all(_fits(one, "float") for one in value)
    return isinstance(value, _KINDS[kind]) and not isinstance(value, bool)


def from_row(row: Mapping[str, Any]) -> Finding:
    """A finding from a plain object; what it holds beside the fields is ignored.

    Raises ValueError for a field that is missing, of another type, or cannot be true.
    """
    for entry in fields(Finding):
        if entry.name not in row:
            if entry.default is MISSING and entry.default_factory is MISSING:
                raise ValueError(f"a finding lacks {entry.name}.")
        elif not _fits(row[entry.name], str(entry.type)):
            raise ValueError(f"{entry.name} must be {entry.type}; it is {row[entry.name]!r:.80}.")
    return Finding(**{e.name: row[e.name] for e in fields(Finding) if e.name in row})


def load_findings(path: Path) -> list[Finding]:
    """Read findings back. Raises ValueError as `rows_in` and `from_row` do."""
    return [from_row(row) for row in rows_in(path)]
