"""The pages around the notebooks: a run's results, and the list of runs, which compares them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labkit.base.paths import atomic_write, read_json
from labkit.errors import FindingsError
from labkit.report.compare import machine_words, summary, when
from labkit.report.folders import entries, findings_of, object_in, runs_in
from labkit.report.pages import links
from labkit.report.pages.html import markdown, templates
from labkit.report.pages.ladder import picture
from labkit.report.told import answer, busy, decoders, matters, words
from labkit.report.told.finding import Finding

_UNKNOWN = dict.fromkeys(("model", "dtype", "profile"), "unknown") | {"status": "unfinished"}


def _environment_rows(stamp: dict[str, Any], parameters: dict[str, Any]) -> list[tuple[str, str]]:
    flat = {k: v for k, v in stamp.items() if k != "versions"} | object_in(stamp, "versions")
    return [
        (name.replace("_", " "), "–" if value is None else str(value))
        for name, value in [*flat.items(), *parameters.items()]
    ]


def made_from(record: dict[str, Any]) -> str:
    """The revision that something was made from, in words; empty where none is known."""
    revision = record.get("git_revision")
    if not revision:
        return ""
    clean = "committed" if record.get("git_changed") is False else "with uncommitted changes"
    return f"revision {revision}, {clean}"


def _otherwise(run: dict[str, Any], entry: dict[str, Any]) -> str:
    """What a notebook was made with where the run as it stands has something else."""
    told = []
    if (entry.get("profile") or run.get("profile")) != run.get("profile"):
        told.append(f"profile {entry['profile']}")
    if "git_revision" in entry and made_from(entry) != made_from(run):
        told.append(made_from(entry) or "revision unknown")
    return "; ".join(told)


def _notebook_row(run_dir: Path, run: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    """A row of the table of notebooks; `page` is None until the notebook has a page."""
    page = f"reports/{entry['name']}.html"
    return entry | {
        "page": page if (run_dir / page).exists() else None,
        "took": words.took(entry.get("seconds")),
        "otherwise": _otherwise(run, entry),
    }


def _findings(run_dir: Path) -> tuple[list[Finding], str]:
    """A run's findings, and why they cannot be read."""
    try:
        return findings_of(run_dir), ""
    except FindingsError as error:
        return [], str(error)


def _decoders(run_dir: Path, titles: dict[str, str]) -> list[dict[str, Any]]:
    """Each decoder that several notebooks timed: its name, rows of a table, and a sentence."""
    return [
        {"name": name, "rows": decoders.rows(of, titles), "told": decoders.sentence(of, titles)}
        for name, of in decoders.groups(decoders.kept(run_dir)).items()
    ]


def by_notebook(findings: Sequence[Finding]) -> list[tuple[str, list[Finding]]]:
    """Findings by notebook, so that the answer leads: first the notebook of the finding that came
    closest to its bare work, its decode steps from the closest on; then the others, in order."""
    groups: dict[str, list[Finding]] = {}
    for finding in sorted(findings, key=lambda finding: finding.notebook):
        groups.setdefault(finding.notebook, []).append(finding)
    best = words.closest(findings)
    if best is None:
        return list(groups.items())
    first = sorted(
        groups.pop(best.notebook),
        key=lambda one: (one.phase != "decode", -(one.of_bare_read_low or 0.0)),
    )
    return [(best.notebook, first), *groups.items()]


def _answer(findings: Sequence[Finding], unread: str) -> dict[str, Any]:
    """What the page tells of a run's findings: the first screen, then all of them, folded."""
    headline = "" if unread else words.headline(findings)
    controls = [one for one in findings if answer.is_control(one)]
    return {
        "findings": findings,
        "lead": answer.sentence(findings) or headline,
        "headline": headline,
        "picture": picture(findings),
        "matters": matters.rows(findings),
        "advice": matters.advice(findings),
        "rates": matters.machine(findings[0].hardware) if findings else "",
        "groups": by_notebook([one for one in findings if not answer.is_control(one)]),
        "controls": by_notebook(controls),
        "unread": unread,
        "columns": markdown(words.COLUMNS),
    }


def run_page(run_dir: Path) -> str:
    """The page of a run from the files in its folder, even if it is not finished."""
    run = _UNKNOWN | read_json(run_dir / "run.json")
    stamp = read_json(run_dir / "environment.json")
    notebooks = [_notebook_row(run_dir, run, entry) for entry in entries(run)]
    titles = {entry["name"]: entry["title"] for entry in notebooks}
    facts = [f"profile {run['profile']}", made_from(run), when(run.get("started"))]
    return templates().get_template("run.html.j2").render(
        title=run.get("title") or run.get("name") or run_dir.name, run=run,
        notebooks=notebooks, titles=titles, decoders=_decoders(run_dir, titles),
        pages={entry["name"]: entry["page"] for entry in notebooks},
        count=lambda *states: sum(entry["status"] in states for entry in notebooks),
        facts="; ".join(filter(None, facts)), busy=busy.of_run(run_dir, titles),
        links=links.of_run(run_dir), machine=machine_words(stamp),
        stamp=_environment_rows(stamp, object_in(run, "parameters")), script_hash=None,
        **_answer(*_findings(run_dir)),
    )  # fmt: skip


def write_run_index(run_dir: Path) -> None:
    """Write index.html of a run."""
    atomic_write(run_dir / "index.html", run_page(run_dir))


def write_runs_index(outputs: Path) -> None:
    """Write outputs/index.html: the list of runs, and a comparison of any of them."""
    runs = [summary(path) for path in runs_in(outputs)]
    made = templates()
    script = made.get_template("compare.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = json.dumps(runs, allow_nan=False).replace("<", "\\u003c")
    newest = sorted(range(len(runs)), key=lambda i: not runs[i]["findings"])  # with findings first
    page = made.get_template("runs.html.j2").render(
        title="Runs", runs=runs, data=data, script=script, script_hash=f"sha256-{digest}",
        first=newest[1] if len(newest) > 1 else 0, others=newest[:1],
    )  # fmt: skip
    atomic_write(outputs / "index.html", page)
