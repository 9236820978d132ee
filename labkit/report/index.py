"""The pages around the notebooks: a run's answer, and the list of runs that compares any two."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from labkit.errors import ParameterError
from labkit.paths import atomic_write, project_root
from labkit.report import words
from labkit.report.finding import Finding, load_findings
from labkit.report.html import environment
from labkit.units import scaled


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


def when(stamp: str | None) -> str:
    """2026-11-24T11:08:00+00:00 -> 24 November 2026, 11:08 UTC."""
    try:
        return f"{datetime.fromisoformat(stamp or ''):%-d %B %Y, %H:%M} UTC"
    except ValueError:
        return "unknown time"


def machine_words(stamp: dict[str, Any]) -> str:
    """The machine of an environment stamp in one line."""
    if not stamp:
        return "unknown machine"
    memory = scaled(float(stamp.get("memory_bytes", 0)), "B")
    return f"{stamp.get('device', 'unknown machine')}, {memory} of memory"


def _environment_rows(stamp: dict[str, Any]) -> list[tuple[str, str]]:
    flat = {k: v for k, v in stamp.items() if k != "versions"} | stamp.get("versions", {})
    return [(name.replace("_", " "), "–" if v is None else str(v)) for name, v in flat.items()]


def write_run_index(run_dir: Path) -> None:
    """index.html of a run, from what lies in its folder; also of one that is not finished."""
    run, stamp = read_json(run_dir / "run.json"), read_json(run_dir / "environment.json")
    findings = findings_of(run_dir)
    page = environment().get_template("run.html.j2").render(
        title=run.get("title") or run.get("name") or run_dir.name, run=run, findings=findings,
        headline=words.headline(findings), when=when(run.get("started")),
        machine=machine_words(stamp), stamp=_environment_rows(stamp),
        defects=[finding.defect for finding in findings if finding.defect], script_hash=None,
    )  # fmt: skip
    atomic_write(run_dir / "index.html", page)


def summary(run_dir: Path) -> dict[str, Any]:
    """What the list of runs says of one, findings included; status `broken` if unreadable."""
    run, stamp = read_json(run_dir / "run.json"), read_json(run_dir / "environment.json")
    findings = findings_of(run_dir)
    sure = [finding.speedup for finding in findings if finding.verdict == "faster"]
    return {
        "folder": run_dir.name,
        "name": run.get("title") or run.get("name") or run_dir.name,
        "status": run.get("status", "broken"),
        "started": run.get("started", ""),
        "when": when(run.get("started")),
        "model": run.get("model") or "default model",
        "machine": machine_words(stamp),
        "torch": stamp.get("versions", {}).get("torch", "unknown"),
        "best": words.times(max(sure)) if sure else "–",
        "findings": [asdict(finding) for finding in findings],
    }


def runs_in(outputs: Path) -> list[Path]:
    """Run folders, newest first."""
    found = [p for p in outputs.iterdir() if p.is_dir() and (p / "run.json").exists()]
    return sorted(found, key=lambda p: str(read_json(p / "run.json").get("started")), reverse=True)


def write_runs_index(outputs: Path) -> None:
    """outputs/index.html: every run, and a comparison of any two."""
    runs = [summary(path) for path in runs_in(outputs)]
    template = environment()
    script = template.get_template("compare.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = json.dumps(runs).replace("<", "\\u003c")
    page = template.get_template("runs.html.j2").render(
        title="Runs", runs=runs, data=data, script=script, script_hash=f"sha256-{digest}"
    )
    atomic_write(outputs / "index.html", page)


def _key(finding: Finding) -> tuple[str, ...]:
    return (finding.notebook, finding.variant, finding.baseline, finding.phase, finding.metric)


def compare_runs(first: Path, second: Path) -> list[dict[str, object]]:
    """Rows of the findings that either run has, side by side; change is second over first."""
    a, b = ({_key(f): f for f in findings_of(path)} for path in (first, second))
    rows: list[dict[str, object]] = []
    for key in dict.fromkeys([*a, *b]):
        left, right = a.get(key), b.get(key)
        known = left or right
        assert known is not None
        rows.append(
            {
                "notebook": known.notebook,
                "finding": f"{known.variant} / {known.baseline}, {words.phase(known.phase)}",
                first.name: words.amount(left.value, left.unit) if left else "–",
                second.name: words.amount(right.value, right.unit) if right else "–",
                "change": f"{right.value / left.value:.2f}x" if left and right else "–",
                "speedups": " | ".join(words.times(f.speedup) if f else "–" for f in (left, right)),
            }
        )
    return rows


def differences(first: Path, second: Path) -> list[str]:
    """What else differs between two runs, and so may explain their figures."""
    a, b = summary(first), summary(second)
    names = {"model": "model", "machine": "machine", "torch": "torch version"}
    return [f"{word}: {a[k]} | {b[k]}" for k, word in names.items() if a[k] != b[k]]


def run_folder(name: str) -> Path:
    """The folder of a run given by name or path; ParameterError names the runs there are."""
    outputs = project_root() / "outputs"
    for path in (outputs / name, Path(name)):
        if (path / "run.json").is_file():
            return path
    known = ", ".join(path.name for path in runs_in(outputs)) if outputs.is_dir() else ""
    raise ParameterError(f"no run named {name!r}; there are: {known or 'none yet'}.")
