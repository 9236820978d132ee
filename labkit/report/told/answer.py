"""The answer of a run: the ladder of decode rates, and the sentence that its page opens with.

Findings are chosen by what they hold: phase, metric, technique, engine, quality and verdict. What a
run did not show is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from labkit.report.told import words
from labkit.report.told.finding import Finding
from labkit.timing.compare import again

CLOSE = 1.02  # the perplexity ratio up to which answers are close
OURS, OTHER, UNKNOWN = "ours", "another engine", "engine not stated"
DRAFTS, PLANTED = "speculative", "timing"  # techniques
_OUR_ENGINE = "labkit"
_LEAST, _MOST = 1e-9, 1e12  # tokens/s; what a file holds beyond is no rate


class Rung(NamedTuple):
    """A step of the ladder; rates in tokens/s.

    low, high: the 95 % interval of the ratio to the baseline, times the baseline's rate; None for
    the baseline itself. limit, limit_low: by the best and by the slowest sustained rate.
    """

    name: str
    whose: str
    value: float
    low: float | None = None
    high: float | None = None
    limit_low: float | None = None
    limit: float | None = None

    @property
    def fraction(self) -> float | None:
        """Of the limit; None where there is none."""
        return None if self.limit is None else self.value / self.limit


def is_control(finding: Finding) -> bool:
    """Whether its true result was known beforehand: a planted change, or a baseline against
    itself."""
    return finding.technique == PLANTED or finding.variant == again(finding.baseline)


def is_close(finding: Finding) -> bool:
    """Whether its answers are known to be the baseline's, or nearly so."""
    ratio = finding.quality.get("perplexity_ratio")
    return finding.quality.get("lossless") is True or (words.is_number(ratio) and ratio <= CLOSE)


def near(findings: Iterable[Finding]) -> list[Finding]:
    """Those whose answers are close; all, where none is known to be."""
    every = list(findings)
    return [one for one in every if is_close(one)] or every


def whose(engine: object) -> str:
    """Whose engine it is, by its record in a finding."""
    name = words.engine_name(engine)
    return OURS if name == _OUR_ENGINE else OTHER if name else UNKNOWN


def ladder(findings: Sequence[Finding]) -> list[Finding]:
    """Decode rates of one stream that were measured against one baseline on one workload: of those
    groups the one with the most engines, then with the fastest variant. Empty where none is."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for one in findings:
        if _is_rung(one):
            groups.setdefault((one.notebook, one.baseline, str(one.workload)), []).append(one)
    return max(groups.values(), default=[], key=_worth)


def _is_rung(finding: Finding) -> bool:
    rates = (finding.value, finding.baseline_value)
    return (
        finding.metric == "decode_rate"
        and finding.technique != DRAFTS
        and not is_control(finding)
        and all(_LEAST < rate < _MOST for rate in rates)
    )


def _worth(group: Sequence[Finding]) -> tuple[int, float, int]:
    engines = {words.engine_name(record) for one in group for record in _records(one)} - {""}
    return len(engines), max(one.value for one in group), len(group)


def _records(finding: Finding) -> tuple[object, object]:
    """Of the engine of the variant, and of that of the baseline."""
    return finding.engine, finding.engine.get("baseline")


def rungs(group: Sequence[Finding]) -> list[Rung]:
    """The variants of a ladder and their baseline, the fastest first."""
    found = [_rung(one) for one in group]
    if group:
        first = group[0]
        found.append(Rung(first.baseline, whose(_records(first)[1]), first.baseline_value))
    return sorted(found, key=lambda rung: -rung.value)


def _rung(finding: Finding) -> Rung:
    before = finding.baseline_value
    low, high = before * finding.speedup_low, before * finding.speedup_high
    told = _LEAST < low <= high < _MOST
    limit = finding.limit if finding.limit and finding.limit < _MOST else None
    return Rung(
        name=finding.variant,
        whose=whose(finding.engine),
        value=finding.value,
        low=low if told else None,
        high=high if told else None,
        limit_low=finding.limit_low if limit else None,
        limit=limit,
    )


def best(group: Sequence[Finding]) -> Finding | None:
    """The fastest of ours whose answers are close; where none is known to be, the fastest."""
    ours = near(one for one in group if whose(one.engine) == OURS)
    return max(ours, key=lambda one: one.value, default=None)


def drafts(findings: Sequence[Finding]) -> list[Finding]:
    """Decode rates with drafts, one a kind of task."""
    return [
        one
        for one in findings
        if one.technique == DRAFTS and one.metric == "decode_rate" and _LEAST < one.value < _MOST
    ]


def sentence(findings: Sequence[Finding]) -> str:
    """Speed, limit, drafts and cost of a run; empty where it showed none of them."""
    group = ladder(findings)
    found = best(group)
    own = [] if found is None else [_speed(found), _limit(found), _faster_still(found, group)]
    cost = "" if found is None else _cost(found.quality)
    return " ".join(filter(None, [*own, _with_drafts(drafts(findings)), cost]))


def rate(value: float) -> str:
    """A rate for a sentence: 330.4 -> 330, 21.17 -> 21, 3.726 -> 3.7."""
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}"


def _speed(found: Finding) -> str:
    before, now = rate(found.baseline_value), rate(found.value)
    if found.verdict == "faster":
        told = f"{before} → {now} tokens/s for one answer: {found.variant} instead of"
        return f"{told} {found.baseline}."
    told = f"{found.variant} gives {now} tokens/s for one answer, {found.baseline} {before}:"
    return f"{told} {'slower' if found.verdict == 'slower' else 'no sure difference'}."


def _limit(found: Finding) -> str:
    if found.limit is None:
        return ""
    return f"Its limit on this machine is about {rate(found.limit)}."


def _faster_still(found: Finding, group: Sequence[Finding]) -> str:
    """The fastest engine of the ladder, where it is another one."""
    first = rungs(group)[0]
    if first.whose == OURS or first.value <= found.value:
        return ""
    return f"{first.name} is faster: {rate(first.value)}."


def _with_drafts(found: Sequence[Finding]) -> str:
    if not found:
        return ""
    low, high = (rate(end(one.value for one in found)) for end in (min, max))
    sure, lost = (sum(one.verdict == said for one in found) for said in ("faster", "slower"))
    told = f"With drafts: {low if low == high else f'{low} to {high}, by kind of task'}"
    slower = f", surely slower on {lost}" if lost else ""
    return f"{told} (surely faster on {sure or 'none'} of {_kinds(len(found))}{slower})."


def _kinds(count: int) -> str:
    return "1 kind" if count == 1 else f"{count} kinds"


def _cost(quality: Mapping[str, object]) -> str:
    """What it cost in answers."""
    if quality.get("lossless") is True:
        return "Cost: none, the answers stay the same."
    same, ratio = quality.get("top1_agreement"), quality.get("perplexity_ratio")
    told = []
    if words.is_number(same):
        told.append(f"the likeliest token changes at {_part(1 - same)} of positions")
    if words.is_number(ratio):
        sign = "+" if ratio >= 1 else "−"
        told.append(f"perplexity {sign}{_part(abs(ratio - 1))}")
    return f"Cost: {', '.join(told)}." if told else ""


def _part(fraction: float) -> str:
    """0.0298 -> 3 %, 0.00254 -> 0.25 %, 0.189 -> 19 %."""
    part = 100 * fraction
    return (f"{part:.0f}" if part >= 9.95 else f"{part:.2g}") + "\u00a0%"
