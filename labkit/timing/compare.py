"""Interleaved comparison: every variant once a round, and the baseline twice.

What a shared machine does to one variant it should do to all, so they take turns; the order is
rotated and reversed from round to round so that none always goes first. The baseline's second
turn, the A/A control, is the measurement's own test: where it differs from the first, nothing
else is to be believed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from labkit.errors import LabkitError
from labkit.timing.statistics import FEWEST_ROUNDS, Ratio, outliers, paired_ratio
from labkit.timing.trace import Trace

# Where a turn's two probes differ by this factor, the memory changed its speed during the turn.
# On a virtual machine of two cores it stood at 37 or at 78 GB/s, for seconds at a time.
CHANGED = 1.25
_FEWEST_STEADY = 3

Variant = Callable[[int], Trace]
Probe = Callable[[], float]


@dataclass
class Comparison:
    """Raw traces of every variant and round, and what follows from them.

    bandwidth holds the read bandwidth (bytes/s) of the moment each trace was taken, where a probe
    was given, and change by which factor the probes before and after it differed. first holds the
    first call of each variant, which is no part of any round. failed holds the messages of variants
    that dropped out.
    """

    baseline: str
    traces: dict[str, list[Trace]]
    first: dict[str, Trace]
    bandwidth: dict[str, list[float]] = field(default_factory=dict)
    change: dict[str, list[float]] = field(default_factory=dict)
    interrupted: bool = False
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def control(self) -> str:
        """The name of the baseline's second turn."""
        return again(self.baseline)

    @property
    def rounds(self) -> int:
        return len(self.traces[self.baseline])

    def values(self, variant: str, metric: str = "tpot") -> list[float]:
        """A metric's value in every round; ValueError where a trace has none."""
        found = [getattr(trace, metric) for trace in self.traces[variant]]
        if None in found:
            raise ValueError(f"{variant}: {metric} is not defined for a trace of one token.")
        return found

    def until(self, tokens: int) -> Comparison:
        """The same rounds, of each answer only the first so many tokens."""
        short = {name: [t.until(tokens) for t in traces] for name, traces in self.traces.items()}
        return replace(self, traces=short)

    def median(self, variant: str, metric: str = "tpot") -> float:
        """The median over rounds."""
        return float(np.median(self.values(variant, metric)))

    def speedup(self, variant: str, metric: str = "tpot") -> Ratio:
        """Paired speedup over the baseline; `metric` is a time in seconds.

        A round's baseline is the mean of its two turns, which stand at different places of the
        round; only the control is held against the first turn alone.
        """
        base = np.array(self.values(self.baseline, metric))
        if variant not in (self.baseline, self.control):
            base = (base + np.array(self.values(self.control, metric))) / 2
        return paired_ratio(base.tolist(), self.values(variant, metric))

    def trusted(self, metric: str = "tpot") -> bool:
        """Whether the A/A control came out inconclusive, as it must."""
        return self.speedup(self.control, metric).verdict == "inconclusive"

    def verdict(self, variant: str, metric: str = "tpot") -> str:
        """faster, slower or inconclusive; always inconclusive where the control failed."""
        return self.speedup(variant, metric).verdict if self.trusted(metric) else "inconclusive"

    def restless(self, variant: str) -> list[int]:
        """Rounds, from 0, during whose turn the memory changed its speed."""
        return [i for i, factor in enumerate(self.change.get(variant, ())) if factor > CHANGED]

    def fractions(
        self, variant: str, limit_seconds: Callable[[float], float], metric: str = "tpot"
    ) -> list[float]:
        """Limit time over measured time, each round with its own bandwidth.

        limit_seconds: from bytes/s to the least seconds the metric could have taken. Restless
        rounds are left out while three others remain. More than the limit is a defect of the limit
        or of the measurement, and is said aloud.
        """
        pairs = zip(self.bandwidth[variant], self.values(variant, metric), strict=True)
        found = [limit_seconds(rate) / seconds for rate, seconds in pairs]
        unknown = set(self.restless(variant))
        if len(found) - len(unknown) >= _FEWEST_STEADY:
            found = [one for i, one in enumerate(found) if i not in unknown]
        if np.median(found) > 1:
            above = f"{variant} ({metric}) stands at {np.median(found):.2f} of its limit"
            print(f"DEFECT: {above}, in the median of {len(found)} rounds.", file=sys.stderr)
        return found

    def flagged(self, variant: str, metric: str = "tpot") -> list[int]:
        """Rounds whose value lies far out: shown, never dropped."""
        return outliers(self.values(variant, metric))

    def to_dict(self) -> dict[str, Any]:
        """All raw samples, for the traces folder of a run."""
        return {
            "baseline": self.baseline,
            "interrupted": self.interrupted,
            "first": {name: trace.to_dict() for name, trace in self.first.items()},
            "rounds": {
                name: [trace.to_dict() for trace in traces] for name, traces in self.traces.items()
            },
            "bandwidth": self.bandwidth,
            "change": self.change,
            "failed": self.failed,
        }


def again(name: str) -> str:
    """What the A/A control of a baseline is called."""
    return f"{name} (again)"


def order(names: Sequence[str], round_number: int) -> list[str]:
    """The turn order of a round: rotated by one each round, and reversed every other one."""
    shift = (round_number // 2) % len(names)
    rotated = [*names[shift:], *names[:shift]]
    return rotated[::-1] if round_number % 2 else rotated


def compare(
    variants: Mapping[str, Variant],
    baseline: str,
    rounds: int = 12,
    probe: Probe | Mapping[str, Probe] | None = None,
    label: str = "rounds",
    between: Callable[[], None] | None = None,
) -> Comparison:
    """Run all variants interleaved for `rounds` rounds and return every trace.

    variants: name -> function of the round number (0 for the first call, then 1, 2, ...), which
    picks that round's prompt and returns its Trace. probe: bytes/s of the moment, one for all or
    one a variant, of its own working set; it is asked before and after every turn, and the higher
    answer is kept, so that a limit is never set too low by a probe that was itself disturbed.
    between: called before the first round, between any two, and after the last.

    Ctrl-C keeps the finished rounds if they are enough to speak of. A variant that raises
    LabkitError drops out and is told in `failed`; the baseline's error is raised. Raises
    ValueError for an unknown baseline or too few rounds.
    """
    if baseline not in variants:
        raise ValueError(f"baseline {baseline!r} is not among {', '.join(variants)}.")
    if rounds < FEWEST_ROUNDS:
        raise ValueError(f"{rounds} rounds are too few; at least {FEWEST_ROUNDS} are needed.")
    runs = dict(variants) | {again(baseline): variants[baseline]}
    probes = _probes(probe, runs, baseline)
    result = Comparison(baseline, {name: [] for name in runs}, {})
    for kept in (result.bandwidth, result.change) if probes else ():
        kept.update({name: [] for name in runs})
    for name in tqdm(variants, desc="first calls", leave=False):
        if (trace := _turn(result, runs, name, 0)) is not None:
            result.first[name] = trace
    between = between or (lambda: None)
    try:
        between()
        for number in tqdm(range(1, rounds + 1), desc=label, unit="round"):
            _one_round(result, runs, number, probes)
            between()
    except KeyboardInterrupt:
        if result.rounds < FEWEST_ROUNDS:
            raise
        result.interrupted = True
        print(f"Interrupted: going on with the {result.rounds} rounds that are complete.")
    return result


def _probes(
    probe: Probe | Mapping[str, Probe] | None, runs: Mapping[str, Variant], baseline: str
) -> dict[str, Probe]:
    """The probe of each turn; the control uses the baseline's."""
    if probe is None:
        return {}
    if callable(probe):
        return dict.fromkeys(runs, probe)
    return {**probe, again(baseline): probe[baseline]}


def _turn(result: Comparison, runs: dict[str, Variant], name: str, number: int) -> Trace | None:
    """One turn of a variant; None where it failed and dropped out."""
    try:
        return runs[name](number)
    except LabkitError as error:
        if name in (result.baseline, result.control):
            raise
        result.failed[name] = str(error)
        for kept in (runs, result.traces, result.bandwidth, result.change, result.first):
            kept.pop(name, None)
        return None


def _one_round(
    result: Comparison, runs: dict[str, Variant], number: int, probes: Mapping[str, Probe]
) -> None:
    """One turn of each; kept only when all are there, so that rounds stay paired."""
    traces: dict[str, Trace] = {}
    rates: dict[str, tuple[float, float]] = {}  # before and after
    before: dict[int, float] = {}  # the last answer of each probe, until other work came between
    for name in order(list(runs), number):
        probe = probes.get(name)
        if probe and id(probe) not in before:
            before = {id(probe): probe()}
        trace = _turn(result, runs, name, number)
        if trace is None:
            before = {}
            continue
        traces[name] = trace
        if probe:
            after = probe()
            rates[name] = before[id(probe)], after
            before = {id(probe): after}
    for name, trace in traces.items():
        result.traces[name].append(trace)
        if probes:
            result.bandwidth[name].append(max(rates[name]))
            result.change[name].append(max(rates[name]) / min(rates[name]))
