"""What matters in a run: five rows at most for its first screen, and what to do on its machine.

Both follow from verdicts: what was not surely faster is not advised.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from labkit.base.units import scaled
from labkit.report.told import answer, words
from labkit.report.told.finding import Finding

_ROWS, _SLOWER = 5, 4  # at most: rows that matter, slower variants that are named
_MANY, _CACHES = "batching", "caching"  # techniques


class Matter(NamedTuple):
    """A row of the first screen: what it is about, and its finding."""

    topic: str
    finding: Finding


class Advice(NamedTuple):
    """What to do, for whom."""

    what: str
    text: str


def rows(findings: Sequence[Finding]) -> list[Matter]:
    """The rows that matter: one answer, the prompt, drafts, many requests, prompts that begin
    alike; then, where a run has not all of them, another engine and the largest sure gains of other
    notebooks."""
    told = [one for one in findings if not answer.is_control(one)]
    group = answer.ladder(told)
    best = answer.best(group)
    picked = [
        ("one answer", best),
        ("reading the prompt", _prompt(told, best)),
        ("with drafts", _surest(answer.drafts(told))),
        ("many requests at once", _many(told)),
        ("prompts that begin alike", _begun_alike(told)),
    ]
    found = [Matter(topic, one) for topic, one in picked if one is not None]
    more = [*_another_engine(group), *_other_gains(told, found)]
    return [*found, *more][:_ROWS]


def _surest(findings: Iterable[Finding]) -> Finding | None:
    """The largest sure gain, of those with close answers where there are any."""
    sure = answer.near(one for one in findings if one.verdict == "faster")
    return max(sure, key=lambda one: one.speedup_low, default=None)


def _prompt(findings: Sequence[Finding], best: Finding | None) -> Finding | None:
    """The fastest sure prefill of ours: of the variant that answers fastest, where it has one."""
    found = [
        one
        for one in findings
        if one.metric == "prefill_rate"
        and one.verdict == "faster"
        and answer.whose(one.engine) == answer.OURS
    ]
    same = [
        one
        for one in found
        if best and (one.notebook, one.variant) == (best.notebook, best.variant)
    ]
    return max(same or found, key=lambda one: one.value, default=None)


def _many(findings: Sequence[Finding], phase: str = "") -> Finding | None:
    """The most tokens a second of several requests together, of those that are a sure gain."""
    found = [
        one
        for one in findings
        if one.technique == _MANY
        and one.metric == "output_throughput"
        and one.verdict == "faster"
        and phase in ("", one.phase)
    ]
    return max(found, key=lambda one: one.value, default=None)


def _begun_alike(findings: Sequence[Finding]) -> Finding | None:
    """The largest sure gain of a first token from a cache."""
    return _surest(one for one in findings if (one.technique, one.metric) == (_CACHES, "ttft"))


def _another_engine(group: Sequence[Finding]) -> list[Matter]:
    """The fastest other engine of the ladder, beside its baseline."""
    others = answer.near(one for one in group if answer.whose(one.engine) == answer.OTHER)
    found = max(others, key=lambda one: one.value, default=None)
    return [] if found is None else [Matter("the fastest other engine", found)]


def _other_gains(findings: Sequence[Finding], told: Sequence[Matter]) -> list[Matter]:
    """The largest sure gain of each notebook that has no row yet, the largest first."""
    groups: dict[str, list[Finding]] = {}
    for one in findings:
        groups.setdefault(one.notebook, []).append(one)
    for row in told:
        groups.pop(row.finding.notebook, None)
    found = [gain for group in groups.values() if (gain := _surest(group))]
    found.sort(key=lambda one: -one.speedup_low)
    return [Matter(one.technique.replace("_", " "), one) for one in found]


def advice(findings: Sequence[Finding]) -> list[Advice]:
    """What to do on the machine of a run, from its verdicts; empty where it has none."""
    told = [one for one in findings if not answer.is_control(one)]
    every = (
        _for_one_chat(told),
        _for_drafts(told),
        _for_many(told),
        _for_prompts_begun_alike(told),
        _not_here(told),
    )
    return [one for one in every if one is not None]


def _for_one_chat(findings: Sequence[Finding]) -> Advice | None:
    best = answer.best(answer.ladder(findings))
    if best is None:
        return None
    if best.verdict != "faster":
        text = f"stay with `{best.baseline}`. `{best.variant}` was not surely faster: it gave "
        return Advice("One chat", f"{text}{words.interval(best)} of its speed.")
    gain = f"{words.amount(best.value, best.unit)}, {words.interval(best)} as fast as"
    return Advice("One chat", f"use `{best.variant}`. It gives {gain} `{best.baseline}`.")


def _for_drafts(findings: Sequence[Finding]) -> Advice | None:
    """For which kinds of task to turn drafts on, and for which to leave them off."""
    found = answer.drafts(findings)
    said = [
        f"{what} for {_kinds(some)}"
        for what, verdict in (("turn them on", "faster"), ("leave them off", "slower"))
        if (some := [one for one in found if one.verdict == verdict])
    ]
    if unsure := sum(one.verdict == "inconclusive" for one in found):
        said.append(f"no sure difference for {unsure} of {len(found)} kinds of task")
    return Advice("Drafts", f"{'; '.join(said)}.") if said else None


def _kinds(findings: Sequence[Finding]) -> str:
    """Kinds of task, each with its speedup, the largest first."""
    order = sorted(findings, key=lambda one: -one.speedup)
    return ", ".join(f"{_kind(one)} ({words.interval(one)})" for one in order)


def _kind(finding: Finding) -> str:
    kind = finding.workload.get("kind")
    return kind.replace("_", " ") if isinstance(kind, str) else finding.variant


def _for_many(findings: Sequence[Finding]) -> Advice | None:
    """Whole requests where they were measured, else passes of several."""
    found = _many(findings, "end_to_end") or _many(findings)
    if found is None:
        return None
    gain = f"{words.amount(found.value, found.unit)} together, {words.interval(found)} as fast as"
    return Advice("Many requests", f"use `{found.variant}`: {gain} `{found.baseline}`.")


def _for_prompts_begun_alike(findings: Sequence[Finding]) -> Advice | None:
    found = _begun_alike(findings)
    if found is None:
        return None
    first = f"the first token came after {words.amount(found.value, found.unit)}"
    return Advice(
        "Prompts that begin alike",
        f"keep the prefix cache on. With `{found.variant}`, {first}: {words.interval(found)} as "
        f"fast as `{found.baseline}`.",
    )


def _not_here(findings: Sequence[Finding]) -> Advice | None:
    """Variants of ours that were surely slower than their baselines, the slowest first."""
    found = [
        one
        for one in findings
        if one.verdict == "slower"
        and one.technique != answer.DRAFTS
        and answer.whose(one.engine) == answer.OURS
    ]
    if not found:
        return None
    found.sort(key=lambda one: one.speedup)
    named = [f"`{one.variant}` ({words.phase(one.phase)}, {words.interval(one)})" for one in found]
    more = f", and {len(named) - _SLOWER} more" if len(named) > _SLOWER else ""
    return Advice("Slower here", f"{', '.join(named[:_SLOWER])}{more}.")


def verdicts(findings: Sequence[Finding]) -> str:
    """How many findings there are, and of which verdict: 9 findings: 7 faster, 2 inconclusive."""
    counts = [
        f"{count} {verdict}"
        for verdict in ("faster", "slower", "inconclusive")
        if (count := sum(one.verdict == verdict for one in findings))
    ]
    return f"{len(findings)} finding{'' if len(findings) == 1 else 's'}: {', '.join(counts)}"


def machine(hardware: Mapping[str, Any]) -> str:
    """What a machine reads and multiplies in a second, from `hardware` of a finding, which may hold
    anything; empty where it tells none of it."""
    told, rates = [], hardware.get("matrix_rate")
    if words.is_number(read := hardware.get("memory_bandwidth")):
        told.append(f"reads {scaled(read, 'B/s')} from memory")
    multiplied = [
        f"{scaled(value, 'FLOP/s')} in {dtype}"
        for dtype, value in (rates.items() if isinstance(rates, dict) else ())
        if words.is_number(value)
    ]
    if multiplied:
        told.append(f"multiplies matrices at {', '.join(multiplied)}")
    threads = hardware.get("threads")
    by = f" with {threads} threads" if type(threads) is int and threads > 1 else ""
    return f"It {' and '.join(told)}{by}." if told else ""
