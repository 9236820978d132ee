"""What each variant is held against: reading its bytes, or doing its products, and nothing else.

`compare_held` adds such bare variants to those of a comparison, where they take their turns like
the others. A bare turn lasts as long as the turns that it is held against, because memory has
states that last from a tenth of a second to many seconds: a short look would say little of a long
turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from labkit.base.device import Device
from labkit.limits.ceiling import ceiling
from labkit.limits.cost import Cost
from labkit.limits.hardware import Hardware
from labkit.limits.roofline import limit
from labkit.limits.work import BareRead, Work, spell
from labkit.timing.compare import Bare, Comparison, Variant, compare
from labkit.timing.trace import Trace

SHORTEST, LONGEST = 0.02, 2.0  # seconds of a bare turn
# Sets of bytes that differ by less share a bare read: it is then the read of either, to the MB.
_SAME = 0.002


class Need(NamedTuple):
    """What one metric of a variant needs at least: so many bytes read, or operations done.

    work: None for bytes, else what does the operations (`labkit.limits.work`). tokens: the metric
    is the time of one of so many tokens, for which the pass is done once.
    """

    amount: float
    work: Work | None = None
    tokens: float = 1.0


def need(cost: Cost, hardware: Hardware, products: Callable[[str], Work]) -> Need:
    """What a pass is held against: its bytes where memory sets its limit, else its FLOPs.

    products: from a dtype to what does its products, the same object each time.
    """
    if limit(cost, hardware).bound == "memory":
        return Need(cost.read_bytes)
    return Need(cost.flops, products(cost.dtype))


@dataclass
class _Turns:
    """A bare variant, the variants that it stands for, and how long each of them took last."""

    work: Work
    stands_for: set[str] = field(default_factory=set)
    lasting: dict[str, float] = field(default_factory=dict)

    def run(self, _: int) -> Trace:
        """One turn, as a trace of two timestamps whose TPOT is the time of one repetition."""
        wanted = min(self.lasting.values(), default=SHORTEST)
        done = spell(self.work, min(max(wanted, SHORTEST), LONGEST))
        return Trace(done.start, (done.start, done.start + done.seconds))


def holding(
    variants: Mapping[str, Variant],
    needs: Mapping[tuple[str, str], Need],
    device: Device = "cpu",
    threads: int | None = None,
) -> tuple[dict[str, Variant], dict[tuple[str, str], Bare]]:
    """The variants and the bare ones that they are held against, for `compare`.

    needs: by (variant, metric); the metric is a time of a trace. Returns what `compare` takes.
    Raises ValueError for a variant that has the name of a bare one, and for a need of nothing.
    """
    turns: dict[str, _Turns] = {}
    bare: dict[tuple[str, str], Bare] = {}
    for (variant, metric), one in needs.items():
        _check(f"{metric} of {variant}", one)
        name = _fitting(turns, one) or _added(turns, one, device, threads)
        turns[name].stands_for.add(variant)
        nbytes = None if one.work else one.amount
        repetitions = one.amount / turns[name].work.amount / one.tokens
        bare[variant, metric] = Bare(name, repetitions, nbytes)
    if taken := variants.keys() & turns.keys():
        raise ValueError(f"variant {min(taken)!r} has the name of what it would be held against.")
    runs = {name: _noting(name, run, list(turns.values())) for name, run in variants.items()}
    return runs | {name: one.run for name, one in turns.items()}, bare


def _check(what: str, need: Need) -> None:
    for amount in (need.amount, need.work.amount if need.work else need.amount):
        if not 0 < amount < math.inf:
            raise ValueError(
                f"the {what} would be held against {amount:g} bytes or operations; allowed is a "
                "number above 0."
            )


def compare_held(
    variants: Mapping[str, Variant],
    baseline: str,
    rounds: int,
    costs: Mapping[tuple[str, str], Cost],
    hardware: Hardware,
    products: Callable[[str], Work],
    tokens: Mapping[tuple[str, str], float] | None = None,
    **options: Any,
) -> Comparison:
    """Compare variants, each held against the bare read or the bare products of its cost.

    costs: by (variant, metric), of the pass that gives this time. products: as for `need`. tokens:
    where a pass gives several and the time is that of one, their number. options: of `compare`.
    Raises ImpossibleRate where a variant was faster than any such device can be. One without a cost
    has no such bound; of it, `compare` asks only that its time is above 0.
    """
    given = dict.fromkeys(costs, 1.0) | dict(tokens or {})
    needs = {
        key: need(cost, hardware, products)._replace(tokens=given[key])
        for key, cost in costs.items()
    }
    runs, bare = holding(variants, needs, hardware.device, hardware.threads)
    found = compare(runs, baseline, rounds, bare, **options)
    most = ceiling(hardware.device)
    for (name, metric), cost in costs.items():
        if name in found.traces:
            most.check_pass(cost, given[name, metric] * min(found.values(name, metric)))
    return found


def _fitting(turns: Mapping[str, _Turns], need: Need) -> str | None:
    """A bare variant that is there already and does the same."""
    for name, one in turns.items():
        reads = isinstance(one.work, BareRead)
        if need.work is None and reads and abs(one.work.amount / need.amount - 1) < _SAME:
            return name
        if need.work is not None and need.work is one.work:
            return name
    return None


def _added(turns: dict[str, _Turns], need: Need, device: Device, threads: int | None) -> str:
    work = need.work or BareRead(need.amount, device, threads)
    name = work.name if work.name not in turns else f"{work.name} ({need.amount:,.0f} bytes)"
    turns[name] = _Turns(work)
    return name


def _noting(name: str, run: Variant, turns: list[_Turns]) -> Callable[[int], Trace]:
    """The variant, which tells the bare variants that stand for it how long it took.

    One that fails drops out of the comparison: its time no longer counts.
    """
    own = [one for one in turns if name in one.stands_for]

    def noted(number: int) -> Trace:
        for one in own:
            one.lasting.pop(name, None)
        trace = run(number)
        for one in own:
            one.lasting[name] = trace.e2e_latency
        return trace

    return noted
