"""The pages around the notebooks: a run's results, and the list of runs, which compares any two."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit.base.paths import atomic_write, project_root, read_json
from labkit.base.units import scaled
from labkit.errors import ParameterError
from labkit.report.pages.html import templates
from labkit.report.told import words
from labkit.report.told.finding import Finding, load_findings

_UNKNOWN = dict.fromkeys(("model", "dtype", "profile"), "unknown") | {"status": "unfinished"}


def findings_of(run_dir: Path) -> list[Finding]:
    """All findings of a run; none where the file is missing or broken."""
    try:
        return load_findings(run_dir / "findings.json")
    except (OSError, ValueError, TypeError):
        return []


def when(stamp: object) -> str:
    """2026-11-24T11:08:00+00:00 -> 24 November 2026, 11:08 UTC."""
    try:
        moment = datetime.fromisoformat(str(stamp)).astimezone(UTC)
    except ValueError:
        return "unknown time"
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def machine_words(stamp: dict[str, Any]) -> str:
    """The machine in one line, from environment.json."""
    name = str(stamp.get("device") or "unknown machine")
    memory = stamp.get("memory_bytes")
    return f"{name}, {scaled(float(memory), 'B')} of memory" if memory else name


def _environment_rows(stamp: dict[str, Any], parameters: dict[str, Any]) -> list[tuple[str, str]]:
    flat = {k: v for k, v in stamp.items() if k != "versions"} | (stamp.get("versions") or {})
    return [
        (name.replace("_", " "), "–" if value is None else str(value))
        for name, value in [*flat.items(), *parameters.items()]
    ]


def _notebook_row(run_dir: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """A row of the table of notebooks; `page` is None until the notebook has a page."""
    page = f"reports/{entry['name']}.html"
    return entry | {
        "title": entry.get("title") or entry["name"],
        "page": page if (run_dir / page).exists() else None,
        "took": words.took(entry.get("seconds")),
    }


def write_run_index(run_dir: Path) -> None:
    """Write index.html of a run from the files in its folder, even if it is not finished."""
    run = _UNKNOWN | read_json(run_dir / "run.json")
    stamp, findings = read_json(run_dir / "environment.json"), findings_of(run_dir)
    notebooks = [_notebook_row(run_dir, entry) for entry in run.get("notebooks") or []]
    page = templates().get_template("run.html.j2").render(
        title=run.get("title") or run.get("name") or run_dir.name, run=run, findings=findings,
        notebooks=notebooks, titles={entry["name"]: entry["title"] for entry in notebooks},
        count=lambda *states: sum(entry.get("status") in states for entry in notebooks),
        headline=words.headline(findings), when=when(run.get("started")),
        machine=machine_words(stamp), stamp=_environment_rows(stamp, run.get("parameters") or {}),
        defects=[finding.defect for finding in findings if finding.defect], script_hash=None,
    )  # fmt: skip
    atomic_write(run_dir / "index.html", page)


def comparison_row(finding: Finding) -> dict[str, Any]:
    """A finding for the comparison of two runs.

    name: equal for the same finding of two runs. speed: a rate, so that the ratio of two runs is a
    speedup.
    """
    share = finding.fraction_of_limit
    rate = finding.value if finding.unit != "s" else 1 / finding.value if finding.value else 0.0
    return {
        "name": f"{finding.notebook}: {finding.variant} / {finding.baseline}, "
        f"{words.phase(finding.phase)}, {words.metric(finding.metric)}",
        "value": words.amount(finding.value, finding.unit),
        "speed": rate,
        "speedup": words.interval(finding),
        "share": "no limit" if share is None else f"{words.percent(share)} of its limit",
    }


def _summary(run_dir: Path) -> dict[str, Any]:
    run, stamp = read_json(run_dir / "run.json"), read_json(run_dir / "environment.json")
    findings = findings_of(run_dir)
    sure = [finding.speedup for finding in findings if finding.verdict == "faster"]
    return {
        "folder": run_dir.name,
        "page": (run_dir / "index.html").exists(),
        "name": str(run.get("name") or run_dir.name),
        "status": str(run.get("status") or "broken"),
        "started": str(run.get("started") or ""),
        "when": when(run.get("started")),
        "model": str(run.get("model") or "unknown model"),
        "machine": machine_words(stamp),
        "torch": str((stamp.get("versions") or {}).get("torch", "unknown")),
        "best": words.times(max(sure)) if sure else "–",
        "findings": [comparison_row(finding) for finding in findings],
    }


def summary(run_dir: Path) -> dict[str, Any]:
    """A run for the list of runs; its status is `broken` where its files cannot be read."""
    try:
        return _summary(run_dir)
    except (AttributeError, TypeError, ValueError):  # JSON, but not of a run
        unknown = dict.fromkeys(("started", "when", "model", "machine", "torch"), "unknown")
        name = {"folder": run_dir.name, "name": run_dir.name, "page": False}
        return name | unknown | {"status": "broken", "best": "–", "findings": []}


def runs_in(outputs: Path) -> list[Path]:
    """Folders of runs, even broken ones, the newest first. A live session leaves none."""
    marks = ("run.json", "environment.json", "notebooks")
    folders = sorted(path for path in outputs.iterdir() if not path.name.startswith("."))
    found = [path for path in folders if any((path / mark).exists() for mark in marks)]
    return sorted(
        found, key=lambda path: str(read_json(path / "run.json").get("started", "")), reverse=True
    )


def write_runs_index(outputs: Path) -> None:
    """Write outputs/index.html: the list of runs, and a comparison of any two."""
    runs = [summary(path) for path in runs_in(outputs)]
    made = templates()
    script = made.get_template("compare.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = json.dumps(runs, allow_nan=False).replace("<", "\\u003c")
    newest = sorted(range(len(runs)), key=lambda i: not runs[i]["findings"])  # with findings first
    page = made.get_template("runs.html.j2").render(
        title="Runs", runs=runs, data=data, script=script, script_hash=f"sha256-{digest}",
        chosen=[*newest[1:2], *newest[:1]],
    )  # fmt: skip
    atomic_write(outputs / "index.html", page)


def compare_runs(first: Path, second: Path) -> list[dict[str, object]]:
    """The findings of two runs side by side, one row a finding.

    `second to first` is a ratio of speeds: above 1, the second run is faster.
    """
    a, b = (
        {row["name"]: row for row in map(comparison_row, findings_of(path))}
        for path in (first, second)
    )
    none = {"value": "–", "speedup": "–", "speed": 0.0}
    rows: list[dict[str, object]] = []
    for name in dict.fromkeys([*a, *b]):
        left, right = a.get(name, none), b.get(name, none)
        change = right["speed"] / left["speed"] if left["speed"] else 0
        rows.append(
            {
                "finding": name,
                "first": left["value"],
                "second": right["value"],
                "second to first": f"{change:.2f}x" if change else "–",
                "speedup, first": left["speedup"],
                "speedup, second": right["speedup"],
            }
        )
    return rows


def differences(first: Path, second: Path) -> list[str]:
    """Model, machine and torch version, where two runs differ in them."""
    a, b = summary(first), summary(second)
    named = {"model": "model", "machine": "machine", "torch": "torch version"}
    return [f"{word}: {a[k]} | {b[k]}" for k, word in named.items() if a[k] != b[k]]


def find_run(name: str) -> Path:
    """The folder of a run, by its name in outputs or by its path; ParameterError for no run."""
    outputs = project_root() / "outputs"
    for path in (outputs / name, Path(name)):
        if (path / "run.json").is_file():
            return path
    known = ", ".join(path.name for path in runs_in(outputs)) if outputs.is_dir() else ""
    raise ParameterError(f"no run named {name!r}; known are: {known or 'none yet'}.")
