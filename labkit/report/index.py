"""The pages around the notebooks: a run's answer, and the list of runs that compares any two."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit.errors import ParameterError
from labkit.paths import atomic_write, project_root
from labkit.report import words
from labkit.report.finding import Finding, load_findings
from labkit.report.html import environment
from labkit.units import scaled

_UNKNOWN = dict.fromkeys(("model", "dtype", "profile"), "unknown") | {"status": "unfinished"}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is none to read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def findings_of(run_dir: Path) -> list[Finding]:
    """All findings of a run in notebook order; none where the file is missing or broken."""
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
    """The machine of an environment stamp in one line."""
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
    """A notebook of the run as its index shows it; linked once it has a page."""
    page = f"reports/{entry['name']}.html"
    return entry | {
        "title": entry.get("title") or entry["name"],
        "page": page if (run_dir / page).exists() else None,
        "took": words.took(entry.get("seconds")),
    }


def write_run_index(run_dir: Path) -> None:
    """index.html of a run, from what lies in its folder; also of one that is not finished."""
    run = _UNKNOWN | read_json(run_dir / "run.json")
    stamp, findings = read_json(run_dir / "environment.json"), findings_of(run_dir)
    notebooks = [_notebook_row(run_dir, entry) for entry in run.get("notebooks") or []]
    page = environment().get_template("run.html.j2").render(
        title=run.get("title") or run.get("name") or run_dir.name, run=run, findings=findings,
        notebooks=notebooks, titles={entry["name"]: entry["title"] for entry in notebooks},
        count=lambda *states: sum(entry.get("status") in states for entry in notebooks),
        headline=words.headline(findings), when=when(run.get("started")),
        machine=machine_words(stamp), stamp=_environment_rows(stamp, run.get("parameters") or {}),
        defects=[finding.defect for finding in findings if finding.defect], script_hash=None,
    )  # fmt: skip
    atomic_write(run_dir / "index.html", page)


def told(finding: Finding) -> dict[str, Any]:
    """A finding as comparisons show it; `name` finds its like in another run, `speed` the ratio."""
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
        "findings": [told(finding) for finding in findings],
    }


def summary(run_dir: Path) -> dict[str, Any]:
    """What the list of runs says of one; status `broken` where its folder makes no sense."""
    try:
        return _summary(run_dir)
    except (AttributeError, TypeError, ValueError):  # JSON, but not what a run writes
        unknown = dict.fromkeys(("started", "when", "model", "machine", "torch"), "unknown")
        name = {"folder": run_dir.name, "name": run_dir.name, "page": False}
        return name | unknown | {"status": "broken", "best": "–", "findings": []}


def runs_in(outputs: Path) -> list[Path]:
    """Folders of runs, also of broken ones, the newest first; a live session leaves no run."""
    marks = ("run.json", "environment.json", "notebooks")
    folders = sorted(path for path in outputs.iterdir() if not path.name.startswith("."))
    found = [path for path in folders if any((path / mark).exists() for mark in marks)]
    return sorted(
        found, key=lambda path: str(read_json(path / "run.json").get("started", "")), reverse=True
    )


def write_runs_index(outputs: Path) -> None:
    """outputs/index.html: every run, and a comparison of any two."""
    runs = [summary(path) for path in runs_in(outputs)]
    template = environment()
    script = template.get_template("compare.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = json.dumps(runs, allow_nan=False).replace("<", "\\u003c")
    told_most = sorted(range(len(runs)), key=lambda i: not runs[i]["findings"])  # the newest first
    page = template.get_template("runs.html.j2").render(
        title="Runs", runs=runs, data=data, script=script, script_hash=f"sha256-{digest}",
        chosen=[*told_most[1:2], *told_most[:1]],
    )  # fmt: skip
    atomic_write(outputs / "index.html", page)


def compare_runs(first: Path, second: Path) -> list[dict[str, object]]:
    """Rows of the findings that either run has, side by side.

    `second to first` is a ratio of speeds: over 1, the second run is faster.
    """
    a, b = ({row["name"]: row for row in map(told, findings_of(path))} for path in (first, second))
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
    """What else differs between two runs, and so may explain their figures."""
    a, b = summary(first), summary(second)
    named = {"model": "model", "machine": "machine", "torch": "torch version"}
    return [f"{word}: {a[k]} | {b[k]}" for k, word in named.items() if a[k] != b[k]]


def run_folder(name: str) -> Path:
    """The folder of a run given by name or path; ParameterError names the runs there are."""
    outputs = project_root() / "outputs"
    for path in (outputs / name, Path(name)):
        if (path / "run.json").is_file():
            return path
    known = ", ".join(path.name for path in runs_in(outputs)) if outputs.is_dir() else ""
    raise ParameterError(f"no run named {name!r}; there are: {known or 'none yet'}.")
