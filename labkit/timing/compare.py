"""Interleaved comparison: in every round each variant runs once, and the baseline twice.

A shared machine is faster at some moments and slower at others. Variants that run by turns meet the
same moments, so that a round's ratio depends on the variants alone. The order of the turns changes
from round to round, so that no variant always runs first. The second turn of the baseline is the
A/A control: where it differs from the first turn, the measurement is not to be trusted.
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

# If the probes before and after a turn differ by this factor, the memory changed its speed between.
# On a virtual machine of two cores it read 37 or 78 GB/s, for seconds at a time.
CHANGED = 1.25
_FEWEST_STEADY = 3

Variant = Callable[[int], Trace]  # takes the number of a round, runs, and returns the trace
Probe = Callable[[], float]  # bytes/s of the moment


@dataclass
class Comparison:
    """The traces of every variant, one a round, and what follows from them.

    traces: by variant, the control included. first: the first call of each variant, which belongs
    to no round. bandwidth: where a probe was given, the read bandwidth (bytes/s) around each turn.
    change: the factor between the probes before and after a turn. failed: for each variant that
    dropped out, the reason. interrupted: whether Ctrl-C ended the comparison early.
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
        """The number of complete rounds."""
        return len(self.traces[self.baseline])

    def values(self, variant: str, metric: str = "tpot") -> list[float]:
        """A metric of a trace, round by round; ValueError where it is not defined."""
        found = [getattr(trace, metric) for trace in self.traces[variant]]
        if None in found:
            raise ValueError(f"{variant}: {metric} is not defined for a trace of one token.")
        return found

    def until(self, tokens: int) -> Comparison:
        """The same rounds, each answer cut to its first `tokens` tokens."""
        short = {name: [t.until(tokens) for t in traces] for name, traces in self.traces.items()}
        return replace(self, traces=short)

    def median(self, variant: str, metric: str = "tpot") -> float:
        """The median of a metric over rounds."""
        return float(np.median(self.values(variant, metric)))

    def speedup(self, variant: str, metric: str = "tpot") -> Ratio:
        """Paired speedup over the baseline; `metric` is a time in seconds.

        The baseline's time in a round is the mean of its two turns. The control is compared with
        the first turn alone.
        """
        base = np.array(self.values(self.baseline, metric))
        if variant not in (self.baseline, self.control):
            base = (base + np.array(self.values(self.control, metric))) / 2
        return paired_ratio(base.tolist(), self.values(variant, metric))

    def trusted(self, metric: str = "tpot") -> bool:
        """Whether the A/A control is inconclusive, as it must be."""
        return self.speedup(self.control, metric).verdict == "inconclusive"

    def verdict(self, variant: str, metric: str = "tpot") -> str:
        """faster, slower or inconclusive; always inconclusive where the control is not trusted."""
        return self.speedup(variant, metric).verdict if self.trusted(metric) else "inconclusive"

    def unsteady(self, variant: str) -> list[int]:
        """Rounds, counted from 0, in which the memory changed its speed during this turn."""
        return [i for i, factor in enumerate(self.change.get(variant, ())) if factor > CHANGED]

    def fractions(
        self, variant: str, limit_seconds: Callable[[float], float], metric: str = "tpot"
    ) -> list[float]:
        """Limit time over measured time, each round with its own bandwidth.

        limit_seconds: from bytes/s to the least seconds that the metric can take. Unsteady rounds
        are left out where at least three others remain. A median above 1 is a defect of the limit
        or of the measurement, and is printed to stderr.
        """
        pairs = zip(self.bandwidth[variant], self.values(variant, metric), strict=True)
        found = [limit_seconds(rate) / seconds for rate, seconds in pairs]
        unsteady = set(self.unsteady(variant))
        if len(found) - len(unsteady) >= _FEWEST_STEADY:
            found = [one for i, one in enumerate(found) if i not in unsteady]
        if np.median(found) > 1:
            above = f"{variant} ({metric}) reaches {np.median(found):.2f} of its limit"
            print(f"DEFECT: {above}, in the median of {len(found)} rounds.", file=sys.stderr)
        return found

    def flagged(self, variant: str, metric: str = "tpot") -> list[int]:
        """Rounds whose value is an outlier: shown, never dropped."""
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
    """The name of the A/A control of a baseline."""
    return f"{name} (again)"


def turn_order(names: Sequence[str], round_number: int) -> list[str]:
    """The order of the turns in a round: reversed every other round, rotated by one every two."""
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

    variants: by name, a function of the round's number (0 for the first call, then 1, 2, ...) that
    picks the prompt of that round and returns its Trace.
    probe: measures the bandwidth of the moment; one for all variants, or one a variant with a
    working set as large as the variant's. It runs before and after every turn. The higher of the
    two values sets the limit: a disturbed probe must not make a limit too low.
    between: called before the first round, between rounds, and after the last.

    Ctrl-C keeps the complete rounds where there are enough. A variant that raises LabkitError drops
    out and is listed in `failed`; an error of the baseline is raised. Raises ValueError for an
    unknown baseline or too few rounds.
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
        print(f"Interrupted: going on with the {result.rounds} complete rounds.")
    return result


def _probes(
    probe: Probe | Mapping[str, Probe] | None, runs: Mapping[str, Variant], baseline: str
) -> dict[str, Probe]:
    """The probe of each variant; the control has the baseline's."""
    if probe is None:
        return {}
    if callable(probe):
        return dict.fromkeys(runs, probe)
    return {**probe, again(baseline): probe[baseline]}


def _turn(result: Comparison, runs: dict[str, Variant], name: str, number: int) -> Trace | None:
    """Run a variant once; None where it failed and dropped out."""
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
    """Run each variant once; kept only when all have run, so that rounds stay paired."""
    traces: dict[str, Trace] = {}
    rates: dict[str, tuple[float, float]] = {}  # bytes/s before and after the turn
    before: dict[int, float] = {}  # a probe's last value, while no turn came after it
    for name in turn_order(list(runs), number):
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
