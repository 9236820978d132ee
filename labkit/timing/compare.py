"""Interleaved comparison: in every round each variant runs once, and the baseline twice.

A shared machine is faster at some moments and slower at others. Variants that run by turns meet the
same moments, so that a round's ratio depends on the variants alone. The order of the turns changes
from round to round, so that no variant always runs first. The second turn of the baseline is the
A/A control: its ratio is that of the first turn alone over it, and where that is not 1, the
measurement is not to be trusted.

A *bare* variant reads the bytes of another one, or does its products, and nothing else. It takes
its turns like any other, so that the share of it that an engine reaches is a paired ratio too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from labkit.base.interference import LOST, Lost, Meter
from labkit.errors import ImpossibleRate, LabkitError
from labkit.timing.statistics import (
    FEWEST_ROUNDS,
    Ratio,
    direction,
    geometric_mean,
    holm,
    narrow_enough,
    outliers,
    paired_ratio,
    trusted,
)
from labkit.timing.trace import Trace

Variant = Callable[[int], Trace]  # takes the number of a round, runs, and returns the trace


class Bare(NamedTuple):
    """What a variant is held against: a bare variant by name, whose TPOT is the time of one
    repetition, and how many repetitions are the variant's own work.

    nbytes: that the variant's own work reads; None where it is held against operations.
    """

    name: str
    repetitions: float
    nbytes: float | None = None


@dataclass
class Comparison:
    """The traces of every variant, one a round, and what follows from them.

    traces: by variant, the control included. first: the first call of each variant, which belongs
    to no round. bare: by (variant, metric), what the variant's time is held against. failed: for
    each variant that dropped out, the reason. interrupted: whether Ctrl-C ended it early. lost: by
    variant, as traces, what each turn lost to other work. uncounted: why something is not counted.
    """

    baseline: str
    traces: dict[str, list[Trace]]
    first: dict[str, Trace]
    bare: dict[tuple[str, str], Bare] = field(default_factory=dict)
    interrupted: bool = False
    failed: dict[str, str] = field(default_factory=dict)
    lost: dict[str, list[Lost]] = field(default_factory=dict)
    uncounted: dict[str, str] = field(default_factory=dict)

    @property
    def control(self) -> str:
        """The name of the baseline's second turn."""
        return again(self.baseline)

    @property
    def rounds(self) -> int:
        """The number of complete rounds."""
        return len(self.traces[self.baseline])

    @property
    def variants(self) -> list[str]:
        """What was compared: neither the control nor what only reads or multiplies."""
        beside = {self.control, *(bare.name for bare in self.bare.values())}
        return [name for name in self.traces if name not in beside]

    def values(self, variant: str, metric: str = "tpot") -> list[float]:
        """A metric of a trace, round by round; ValueError where it is not defined.

        Of the baseline it is the geometric mean of the two turns of a round.
        """
        found = self._turns(variant, metric)
        if variant != self.baseline:
            return found
        both = np.array([found, self._turns(self.control, metric)])
        return [float(one) for one in np.sqrt(both[0] * both[1])]

    def _turns(self, variant: str, metric: str) -> list[float]:
        found = [getattr(trace, metric) for trace in self.traces[variant]]
        if None in found:
            raise ValueError(f"{variant}: {metric} is not defined for a trace of one token.")
        return found

    def until(self, tokens: int) -> Comparison:
        """The same rounds, each answer cut to its first `tokens` tokens; held against nothing."""
        short = {
            name: [t.until(tokens) for t in self.traces[name]]
            for name in (*self.variants, self.control)
        }
        return replace(self, traces=short, bare={})

    def mean(self, variant: str, metric: str = "tpot") -> float:
        """The geometric mean over rounds of a metric: the value that every page tells."""
        return geometric_mean(self.values(variant, metric))

    def base(self, variant: str, metric: str = "tpot") -> list[float]:
        """The baseline's times that a variant is compared with, round by round.

        The control is one turn against one turn: it has the baseline's first turn alone.
        """
        found = self._turns if variant == self.control else self.values
        return found(self.baseline, metric)

    def speedup(self, variant: str, metric: str = "tpot") -> Ratio:
        """Paired speedup over the baseline; `metric` is a time in seconds.

        It is the geometric mean of `base` over `mean(variant)`, with an interval.
        """
        return paired_ratio(self.base(variant, metric), self.values(variant, metric))

    def share(self, variant: str, metric: str = "tpot") -> Ratio | None:
        """The time of the bare work over the variant's time, paired; None where it has none."""
        alone = self.bare_times(variant, metric)
        return None if alone is None else paired_ratio(alone, self.values(variant, metric))

    def bare_times(self, variant: str, metric: str = "tpot") -> list[float] | None:
        """Seconds that the variant's own bare work took, round by round; None where it has none or
        where that failed to run."""
        bare = self.bare.get((variant.removesuffix(again("")), metric))
        if bare is None or bare.name not in self.traces:
            return None
        return [bare.repetitions * one for one in self.values(bare.name)]

    def trusted(self, metric: str = "tpot") -> bool:
        """Whether the A/A control shows no difference, as it must."""
        return trusted(self.speedup(self.control, metric))

    def verdicts(self, metric: str = "tpot") -> dict[str, str]:
        """faster, slower or inconclusive for each variant, corrected for all of this comparison.

        Inconclusive where the control is not trusted, or wider than the effect.
        """
        control = self.speedup(self.control, metric)
        found = {n: self.speedup(n, metric) for n in self.variants if n != self.baseline}
        held = holm({name: ratio.p_value for name, ratio in found.items()})
        sure = {
            name
            for name in held
            if trusted(control) and narrow_enough(found[name].value, (control.low, control.high))
        }
        return {
            name: direction(ratio.value) if name in sure else "inconclusive"
            for name, ratio in found.items()
        }

    def flagged(self, variant: str, metric: str = "tpot") -> list[int]:
        """Rounds whose value is an outlier: shown, never dropped."""
        return outliers(self.values(variant, metric))

    def disturbed(self, share: float = LOST) -> dict[tuple[str, int], float]:
        """By variant and round (from 1 on), the turns that lost a larger share of their core time
        to other work, and that share. They stay among the samples."""
        return {
            (name, number): one.share
            for name, turns in self.lost.items()
            for number, one in enumerate(turns, 1)
            if one.share is not None and one.share > share
        }

    def to_dict(self) -> dict[str, Any]:
        """All raw samples, for the traces folder of a run."""
        return {
            "baseline": self.baseline,
            "interrupted": self.interrupted,
            "first": {name: trace.to_dict() for name, trace in self.first.items()},
            "rounds": {
                name: [trace.to_dict() for trace in traces] for name, traces in self.traces.items()
            },
            "bare": [
                {"variant": variant, "metric": metric, **bare._asdict()}
                for (variant, metric), bare in self.bare.items()
            ],
            "failed": self.failed,
            "lost": {name: [one.to_dict() for one in turns] for name, turns in self.lost.items()},
            "uncounted": self.uncounted,
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
    bare: Mapping[tuple[str, str], Bare] | None = None,
    label: str = "rounds",
    between: Callable[[], None] | None = None,
) -> Comparison:
    """Run all variants interleaved for `rounds` rounds and return every trace.

    variants: by name, a function of the round's number (0 for the first call, then 1, 2, ...) that
    picks the prompt of that round and returns its Trace. bare: which of them another is held
    against (`Comparison.bare`); `labkit.timing.held` makes both. between: called before the first
    round, between rounds, and after the last.

    Ctrl-C keeps the complete rounds where there are enough. A variant that raises LabkitError drops
    out and is listed in `failed`; an error of the baseline is raised, and so is ImpossibleRate for
    any variant: where a turn took no time, nothing measured can be used. Raises ValueError for an
    unknown baseline, a variant with the name of the control, or too few rounds.
    """
    if baseline not in variants:
        raise ValueError(f"baseline {baseline!r} is not among {', '.join(variants)}.")
    if again(baseline) in variants:
        raise ValueError(f"variant {again(baseline)!r} has the name of the baseline's second turn.")
    if rounds < FEWEST_ROUNDS:
        raise ValueError(f"{rounds} rounds are too few; at least {FEWEST_ROUNDS} are needed.")
    runs = dict(variants) | {again(baseline): variants[baseline]}
    meter = Meter()
    result = Comparison(baseline, {name: [] for name in runs}, {}, dict(bare or {}))
    result.lost, result.uncounted = {name: [] for name in runs}, dict(meter.uncounted)
    for name in tqdm(variants, desc="first calls", leave=False):
        if (turn := _turn(result, runs, name, 0, meter)) is not None:
            result.first[name] = turn.trace
    between = between or (lambda: None)
    try:
        between()
        for number in tqdm(range(1, rounds + 1), desc=label, unit="round"):
            _one_round(result, runs, number, meter)
            between()
    except KeyboardInterrupt:
        if result.rounds < FEWEST_ROUNDS:
            raise
        result.interrupted = True
        print(f"Interrupted: going on with the {result.rounds} complete rounds.")
    return result


class _Turn(NamedTuple):
    trace: Trace
    lost: Lost


def _turn(
    result: Comparison, runs: dict[str, Variant], name: str, number: int, meter: Meter
) -> _Turn | None:
    """Run a variant once; None where it failed and dropped out. ImpossibleRate where it took no
    time: the least that can be asked of one whose cost is not known."""
    try:
        before = meter.now()
        trace = runs[name](number)
        lost = meter.since(before)
        if not trace.e2e_latency > 0:
            raise ImpossibleRate(
                f"{name} was measured to take {trace.e2e_latency:g} s: the clock stood still."
            )
        return _Turn(trace, lost)
    except ImpossibleRate:
        raise
    except LabkitError as error:
        if name in (result.baseline, result.control):
            raise
        result.failed[name] = str(error)
        for kept in (runs, result.traces, result.first, result.lost):
            kept.pop(name, None)
        return None


def _one_round(result: Comparison, runs: dict[str, Variant], number: int, meter: Meter) -> None:
    """Run each variant once; kept only when all have run, so that rounds stay paired."""
    turns: dict[str, _Turn] = {}
    for name in turn_order(list(runs), number):
        turn = _turn(result, runs, name, number, meter)
        if turn is not None:
            turns[name] = turn
    for name, turn in turns.items():
        result.traces[name].append(turn.trace)
        result.lost[name].append(turn.lost)
