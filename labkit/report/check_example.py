"""Refuse an example that is not what it says it is.

`python -m labkit.report.check_example outputs/example` prints one line for each fault, and exits
with 1 where there is one. The example is what most readers see of the workbench. So it is a
finished run of every notebook, of the full profile, made from a committed revision, and its numbers
fit each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from labkit.base.command import clear_errors
from labkit.base.paths import project_root, read_json
from labkit.report.finding import csv_text
from labkit.report.folders import DONE, about
from labkit.report.told import words
from labkit.report.told.finding import Finding, from_row, rows_in
from labkit.timing.statistics import direction, interval

_ROUNDING = 1e-6  # relative; the numbers of a finding are computed from the same times
# Metrics that are a time, or a rate that is one over a time: their speedup is a ratio of values.
_OF_TIME = (
    "ttft", "itl", "tpot", "e2e_latency", "decode_rate", "prefill_rate", "output_throughput",
)  # fmt: skip


def faults(run: Path, notebooks: Iterable[str] = (), profile: str = "full") -> list[str]:
    """What is wrong with a run as an example; empty for a good one.

    notebooks: the names of those that it has to hold.
    """
    record = read_json(run / "run.json")
    if not record:
        return [f"{run}: run.json is missing or broken"]
    names = _names(record.get("notebooks"))
    if names is None:
        return [f"{run}: run.json has no list of notebooks, each an object with a name"]
    lacking = [f"{name}: the run does not hold it" for name in notebooks if name not in names]
    try:
        found = [*_of_the_run(record, profile), *lacking, *_of_the_files(run, record, names)]
    except OSError as error:
        found = [f"{run} cannot be read: {error.strerror}"]
    return [words.printable(fault) for fault in found]


def _names(entries: object) -> list[str] | None:
    """The names of a run's notebooks; None where run.json does not hold such a list."""
    if not isinstance(entries, list):
        return None
    named = [entry["name"] for entry in entries if isinstance(entry, dict) and "name" in entry]
    names = [name for name in named if isinstance(name, str)]
    return names if len(names) == len(entries) else None


def _of_the_run(record: Mapping[str, Any], profile: str) -> Iterator[str]:
    if record.get("status") != "finished":
        yield f"the run is {record.get('status')}, not finished"
    yield from _of_its_making("the run", record, record.get("git_revision"), profile)
    for entry in record["notebooks"]:
        if entry.get("status") not in DONE:
            yield f"{entry['name']}: it is {entry.get('status')}; allowed: {', '.join(DONE)}"
        yield from _of_its_making(entry["name"], entry, record.get("git_revision"), profile)


def _of_its_making(
    what: str, made: Mapping[str, Any], revision: object, profile: str
) -> Iterator[str]:
    """Profile and revision of the run or of one of its notebooks."""
    if made.get("profile") != profile:
        yield f"{what}: made with profile {made.get('profile')}, not {profile}"
    if not made.get("git_revision") or made.get("git_changed") is None:
        yield f"{what}: it is not known which revision it was made from"
        return
    if made["git_revision"] != revision:
        yield f"{what}: made from revision {made['git_revision']}, the run from {revision}"
    if made["git_changed"]:
        yield f"{what}: made from a tree with uncommitted changes"


def _of_the_files(run: Path, record: Mapping[str, Any], names: Sequence[str]) -> Iterator[str]:
    try:
        rows = rows_in(run / "findings.json")
    except ValueError as error:
        yield str(error)
        return
    wrong = list(_of_findings(rows))
    yield from wrong
    for name in names:
        for file in (f"reports/{name}.html", f"notebooks/{name}.ipynb"):
            if not _has_content(run / file):
                yield f"{file} is missing or empty"
    if not any(map(_has_content, (run / "hardware").glob("*.json"))):
        yield "hardware/ is missing or empty: the run holds no measurement of its machine"
    yield from _of_its_copies(run, record, names, rows)
    # As bytes: another program may have saved it in another encoding.
    told = (run / "findings.csv").read_bytes() if (run / "findings.csv").is_file() else None
    if not wrong and told != _bytes(csv_text([from_row(row) for row in rows])):
        yield "findings.csv is missing, or tells something else than findings.json"


def _has_content(path: Path) -> bool:
    return path.is_file() and bool(path.read_bytes().strip())


def _bytes(text: str) -> bytes:
    """Text as UTF-8; half a character, which JSON may hold, as nothing that a file can equal."""
    return text.encode("utf-8", "surrogatepass")


def _of_findings(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not rows:
        yield "findings.json holds no findings"
    found = []
    for row in rows:
        try:
            found.append(from_row(row))
        except ValueError as error:
            where = ", ".join(f"{row.get(key)!s:.80}" for key in ("notebook", "variant", "phase"))
            yield f"{where}: {error}"
    for finding in found:
        yield from _of_values(finding)
        yield from _of_ratios(finding)
    yield from _of_limits(found)


def _named(finding: Finding) -> str:
    return f"{finding.notebook}, {finding.variant}, {finding.phase}"


def _of_values(finding: Finding) -> Iterator[str]:
    """Value, baseline and speedup come from one estimator, so that each follows from the others."""
    value, baseline = finding.value, finding.baseline_value
    if finding.metric not in _OF_TIME:
        return
    if not (value and baseline):
        yield f"{_named(finding)}: value {value:g} and baseline {baseline:g} give no speedup"
        return
    told = baseline / value if finding.unit == "s" else value / baseline
    if not math.isclose(told, finding.speedup, rel_tol=_ROUNDING):
        yield (
            f"{_named(finding)}: value {value:g} and baseline {baseline:g} give a speedup of "
            f"{told:g}, not {finding.speedup:g}"
        )


def _of_ratios(finding: Finding) -> Iterator[str]:
    """Speedup, interval and number of rounds follow from the ratios; so does the verdict."""
    ratios = finding.ratios
    if len(ratios) != finding.samples:
        yield f"{_named(finding)}: {finding.samples} rounds, but {len(ratios)} ratios"
    elif len(ratios) > 1:
        again = interval(ratios)
        for name, value in (("", again.value), ("_low", again.low), ("_high", again.high)):
            told = getattr(finding, f"speedup{name}")
            if not math.isclose(told, value, rel_tol=_ROUNDING):
                yield f"{_named(finding)}: speedup{name} {told:g}, but the ratios give {value:g}"
    if finding.verdict not in ("inconclusive", direction(finding.speedup)):
        yield f"{_named(finding)}: {finding.verdict} at a speedup of {finding.speedup:g}"


def _of_limits(findings: Iterable[Finding]) -> Iterator[str]:
    """The same bytes on the same hardware have the same limit, to the digit."""
    first: dict[tuple[object, ...], Finding] = {}
    for finding in findings:
        if finding.bytes_read is None or finding.limit is None:
            continue
        hardware = (finding.hardware.get(key) for key in ("name", "device", "threads"))
        key = (finding.bytes_read, finding.metric, finding.unit, *map(str, hardware))
        other = first.setdefault(key, finding)
        one, two = ((f.limit, f.limit_low) for f in (other, finding))
        if one != two:
            yield (
                f"{_named(finding)}: its limit is {two[0]} (slowest: {two[1]}), but that of "
                f"{_named(other)}, with the same bytes, is {one[0]} (slowest: {one[1]})"
            )


def _of_its_copies(
    run: Path, record: Mapping[str, Any], names: Sequence[str], whole: list[dict[str, Any]]
) -> Iterator[str]:
    """findings.json is made of run.json and of the files in findings/."""
    if read_json(run / "findings.json").get("run") != about(record):
        yield "findings.json tells something else of its run than run.json"
    try:
        parts = [row for name in names for row in rows_in(run / "findings" / f"{name}.json")]
    except ValueError as error:
        yield f"findings/: {error}"
        return
    if parts != whole:
        yield "findings.json is not what the files in findings/ hold together"


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--profile", default="full", show_default=True, help="that the run must be of")
@clear_errors
def main(run: Path, profile: str) -> int:
    """Print what is wrong with RUN as an example, one line a fault."""
    notebooks = sorted((project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    found = faults(run, [path.stem for path in notebooks], profile)
    for fault in found:
        click.echo(fault, err=True)
    return 1 if found else 0


if __name__ == "__main__":
    main()
