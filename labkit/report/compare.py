"""Runs beside each other: what differs between them, and their findings in a column a run.

Within a run, variants take turns, so that a speedup has a paired interval. Two runs took no turns
with each other: a ratio of their speeds has no interval, and is called unpaired. Their speedups
come from independent rounds, so that a ratio of two speedups has the interval of both together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from labkit.base.paths import read_json
from labkit.base.units import scaled
from labkit.errors import FindingsError, ParameterError
from labkit.report.folders import find_run, findings_of, known_runs
from labkit.report.told import words
from labkit.report.told.finding import Finding

# What makes two runs differ beside their code: the key of a summary, and the word for it.
ABOUT = {"model": "model", "dtype": "dtype", "machine": "machine", "torch": "torch version",
         "profile": "profile"}  # fmt: skip


def when(stamp: object) -> str:
    """2026-11-24T11:08:00+00:00 -> 24 November 2026, 11:08 UTC."""
    try:
        moment = datetime.fromisoformat(str(stamp)).astimezone(UTC)
    except (ValueError, OverflowError):
        return "unknown time"
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def machine_words(stamp: dict[str, Any]) -> str:
    """The machine in one line, from environment.json."""
    name = str(stamp.get("device") or "unknown machine")
    memory = stamp.get("memory_bytes")
    if isinstance(memory, bool) or not isinstance(memory, int | float) or not memory:
        return name
    return f"{name}, {scaled(float(memory), 'B')} of memory"


def name_of(finding: Finding) -> str:
    """What is equal for the same finding of two runs. Its unit follows from its metric."""
    return (
        f"{finding.notebook}: {finding.variant} / {finding.baseline}, "
        f"{words.phase(finding.phase)}, {words.metric(finding.metric)}"
    )


def by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    """A run's findings by their names; where several have one name, the later ones are numbered."""
    found: dict[str, Finding] = {}
    for finding in findings:
        name, number = name_of(finding), 2
        while name in found:
            name, number = f"{name_of(finding)} ({number})", number + 1
        found[name] = finding
    return found


def workload(finding: Finding) -> str:
    """What was asked, in words: prompt_tokens 64, new_tokens 6."""
    told = ", ".join(f"{key} {value}" for key, value in sorted(finding.workload.items()))
    return told or "not stated"


def speed(finding: Finding) -> float:
    """The value as a rate, so that the ratio of two runs is a ratio of speeds; 0 for no rate."""
    if finding.unit != "s":
        return finding.value
    rate = 1 / finding.value if finding.value else 0.0
    return rate if math.isfinite(rate) else 0.0


def comparison_row(name: str, finding: Finding) -> dict[str, Any]:
    """A finding for the page that compares runs; its texts, and its speed as a number.

    name: what the same finding of another run has too (`by_name`).
    """
    fraction = finding.fraction_of_limit
    share = f"{words.share(finding)} of {words.held_against(finding)}"
    return {
        "name": name,
        "workload": workload(finding),
        "value": words.amount(finding.value, finding.unit),
        "speed": speed(finding),
        "speedup": words.interval(finding),
        "share": share if words.share(finding) else "no bare read",
        "limit": "no limit" if fraction is None else f"{words.percent(fraction)} of its limit",
    }


def _about(run_dir: Path) -> dict[str, Any]:
    """The texts of a run's summary."""
    run, stamp = read_json(run_dir / "run.json"), read_json(run_dir / "environment.json")
    return {
        "folder": run_dir.name,
        "page": (run_dir / "index.html").exists(),
        "name": str(run.get("name") or run_dir.name),
        "status": str(run.get("status") or "broken"),
        "started": str(run.get("started") or ""),
        "when": when(run.get("started")),
        "model": str(run.get("model") or "unknown model"),
        "dtype": str(run.get("dtype") or "unknown dtype"),
        "profile": str(run.get("profile") or "unknown profile"),
        "machine": machine_words(stamp),
        "torch": str((stamp.get("versions") or {}).get("torch", "unknown")),
    }


def _of_findings(run_dir: Path) -> dict[str, Any]:
    """What a summary tells of a run's findings; `unread` says why they cannot be read."""
    try:
        findings, unread = findings_of(run_dir), ""
    except FindingsError as error:
        findings, unread = [], str(error)
    sure = [finding.speedup for finding in findings if finding.verdict == "faster"]
    best = words.closest(findings)
    return {
        "best": words.times(max(sure)) if sure else "–",
        "closest": words.share(best) if best else "–",
        "findings": [comparison_row(*one) for one in by_name(findings).items()],
        "unread": unread,
    }


def summary(run_dir: Path) -> dict[str, Any]:
    """A run for the list of runs; its status is `broken` where its files cannot be read."""
    try:
        return _about(run_dir) | _of_findings(run_dir)
    except (AttributeError, TypeError, ValueError, ArithmeticError):  # JSON, but not of a run
        unknown = dict.fromkeys(("started", "when", *ABOUT), "unknown")
        name = {"folder": run_dir.name, "name": run_dir.name, "page": False, "status": "broken"}
        return name | unknown | {"best": "–", "closest": "–", "findings": [], "unread": ""}


class Ratio(NamedTuple):
    """A ratio with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{words.times(self.value)} [{self.low:.2f}, {self.high:.2f}]"


def over(one: Finding, other: Finding) -> Ratio:
    """The speedup of one over that of another of an independent run.

    The half widths of the two intervals, in logarithms, add as squares.
    """
    value = one.speedup / other.speedup
    up = math.hypot(
        math.log(one.speedup_high / one.speedup), math.log(other.speedup / other.speedup_low)
    )
    down = math.hypot(
        math.log(one.speedup / one.speedup_low), math.log(other.speedup_high / other.speedup)
    )
    return Ratio(value, value * math.exp(-down), value * math.exp(up))


def _measured(found: Finding | None, first: Finding | None) -> str:
    if found is None:
        return "–"
    text = words.amount(found.value, found.unit)
    if first is None or first is found or not speed(first):
        return text
    return f"{text} ({words.times(speed(found) / speed(first))})"


def _speedup(found: Finding | None, first: Finding | None) -> str:
    if found is None:
        return "–"
    text = words.interval(found)
    return text if first is None or first is found else f"{text} ({over(found, first)})"


def _share(found: Finding | None, _: Finding | None) -> str:
    return words.share(found) or "–" if found else "–"


def _limit(found: Finding | None, _: Finding | None) -> str:
    fraction = found.fraction_of_limit if found else None
    return "–" if fraction is None else words.percent(fraction)


_ROWS = {
    "of the bare read": _share,
    "of its limit": _limit,
    "measured": _measured,
    "speedup": _speedup,
}


def beside(runs: Sequence[Sequence[Finding]]) -> dict[str, list[list[str]]]:
    """By the name of a finding, its rows: first what the row is, then a cell for each run.

    In parentheses stands a later run over the first: speeds unpaired, speedups with an interval.
    Where the workloads differ, each is told instead, and nothing is divided by anything.
    """
    named = [by_name(findings) for findings in runs]
    found = {}
    for name in dict.fromkeys(name for run in named for name in run):
        same = [run.get(name) for run in named]
        asked = [workload(finding) if finding else "–" for finding in same]
        differ = len(set(asked) - {"–"}) > 1
        first = None if differ else same[0]
        rows = [[label, *(cell(one, first) for one in same)] for label, cell in _ROWS.items()]
        found[name] = [*([["not the same work", *asked]] if differ else []), *rows]
    return found


def differences(runs: Sequence[Path]) -> list[str]:
    """Model, dtype, machine, torch version and profile, where the runs differ in them."""
    told = [summary(run) for run in runs]
    return [
        f"{word}: {' | '.join(one[key] for one in told)}"
        for key, word in ABOUT.items()
        if len({one[key] for one in told}) > 1
    ]


def _labels(names: Sequence[str]) -> list[str]:
    """Names that no two columns share: numbered where two runs have the same name."""
    if len(set(names)) == len(names):
        return list(names)
    return [f"{number}: {name}" for number, name in enumerate(names, 1)]


def _folders(names: Sequence[str]) -> list[Path]:
    """The folders of different runs, none of them broken."""
    folders = [find_run(name) for name in names]
    for number, folder in enumerate(folders):
        if any(folder.resolve() == other.resolve() for other in folders[:number]):
            raise ParameterError(
                f"the run {names[number]!r} is given twice; compare takes different runs."
            )
        if summary(folder)["status"] == "broken":
            raise FindingsError(
                f"{folder.resolve().name}: its run.json or environment.json is broken. "
                f"`make reports RUN={folder.resolve().name} FORCE=1` makes the run anew."
            )
    return folders


def _lines(names: Sequence[str]) -> Iterator[str]:
    folders = _folders(names)
    findings = [findings_of(folder) for folder in folders]
    labels = _labels([folder.resolve().name for folder in folders])
    for line in differences(folders):
        yield words.printable(f"not the same {line}")
    for label, held in zip(labels, findings, strict=True):
        if not held:
            yield words.printable(f"{label} has no findings")
    rows = beside(findings)
    if not rows:
        return
    columns = ("", *labels)
    cells = [dict(zip(columns, row, strict=True)) for some in rows.values() for row in some]
    head, *rest = words.text_table(cells).splitlines()
    lines = iter(rest)
    yield f"\n  {head}"
    for name, some in rows.items():
        yield words.printable(name)
        yield from (f"  {line}" for line in islice(lines, len(some)))
    yield (
        "\nIn brackets: 95 % intervals, each within its own run. In parentheses: over the first "
        "run. The ratio of two runs' speeds is unpaired: they took no turns with each other, so "
        "it has no interval. The ratio of two speedups has the interval of both together."
    )


def comparison(names: Sequence[str]) -> str:
    """The findings of runs beside each other, for a terminal. names: folders, or names in outputs.

    Raises ParameterError for fewer than two runs, for an unknown one and for one that is given
    twice, FindingsError for a run whose files cannot be read.
    """
    if len(names) < 2:
        raise ParameterError(
            f"compare takes at least two runs; {len(names)} given. Known are: {known_runs()}."
        )
    return "\n".join(_lines(names))
