"""A run: one notebook after another, then their pages; an interrupted run goes on where it stopped.

A notebook is done when its state file exists, which is written last. run.json says `unfinished`
until the run ends, so that a run that was cut off never looks complete.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from labkit.base.paths import atomic_write, read_json
from labkit.base.units import seconds as duration
from labkit.errors import FindingsError, LabkitError
from labkit.report.finding import csv_text
from labkit.report.folders import DONE, about, findings_of, read_findings
from labkit.report.pages import links
from labkit.report.pages.html import render_notebook
from labkit.report.pages.index import write_run_index, write_runs_index
from labkit.report.runs.notebooks import Notebook, read_overrides
from labkit.report.runs.request import ReportRequest, folder_of, identify, plan
from labkit.report.runs.state import is_done, resume_key, save_state
from labkit.report.runs.watch import run_notebook
from labkit.report.told import words
from labkit.report.told.finding import Finding, to_json

# What a notebook is made with; a continued run may keep notebooks of another revision or profile.
MADE = ("profile", "git_revision", "git_changed")


@dataclass
class Run:
    """A run's folder and the content of its run.json."""

    folder: Path
    record: dict[str, Any]

    def save(self) -> None:
        """Write findings.json, findings.csv, run.json and the run's index page."""
        found = [one for entry in self.record["notebooks"] for one in self.findings(entry["name"])]
        atomic_write(self.folder / "findings.json", to_json(found, about(self.record)))
        atomic_write(self.folder / "findings.csv", csv_text(found))
        atomic_write(self.folder / "run.json", json.dumps(self.record, indent=1) + "\n")
        write_run_index(self.folder)

    def findings(self, name: str) -> list[Finding]:
        """A notebook's findings; none where it left none, or none that can be read."""
        return [] if self.unread(name) else read_findings(self._saved(name))

    def unread(self, name: str) -> str:
        """Why there are no findings of a notebook; empty where there are."""
        if not self._saved(name).exists():
            return "it ended without saving its findings"
        try:
            read_findings(self._saved(name))
        except FindingsError as error:
            return str(error)
        return ""

    def _saved(self, name: str) -> Path:
        return self.folder / "findings" / f"{name}.json"

    def entry(self, name: str) -> dict[str, Any]:
        """A notebook's part of run.json."""
        return next(e for e in self.record["notebooks"] if e["name"] == name)


def _open(
    request: ReportRequest, folder: Path, identity: dict[str, Any], chosen: Sequence[Notebook]
) -> Run:
    """Start a run or continue it; notebooks that an earlier command ran stay listed."""
    before = read_json(folder / "run.json")
    known = {entry["name"]: entry for entry in before.get("notebooks", [])}
    anew = request.force and {notebook.name for notebook in chosen} >= set(known)
    started = "" if anew else before.get("started")
    if anew:  # a notebook that is kept would need the measurement that it was told by
        shutil.rmtree(folder / "hardware", ignore_errors=True)
    for notebook in chosen:
        fresh = {"seconds": None, "error": None} | known.get(notebook.name, {})
        known[notebook.name] = fresh | {
            "name": notebook.name, "title": notebook.title, "status": "pending",
        }  # fmt: skip
    record = {
        "name": folder.name,
        "title": f"How fast can {identity['model']} go on {identity['machine']}?",
        "profile": request.profile,
        # As the tree is now: the run itself may change files that are committed, as the example's.
        "git_revision": identity["environment"].get("git_revision"),
        "git_changed": identity["environment"].get("git_changed"),
        "status": "unfinished",
        "started": started or datetime.now(UTC).isoformat(timespec="seconds"),
        "finished": None,
        "model": identity["model"],
        "device": identity["device"],
        "machine": identity["machine"],
        "dtype": request.dtype,
        "parameters": read_overrides(request.params) if request.params else {},
        "notebooks": [known[name] for name in sorted(known)],
    }
    run = Run(folder, record)
    for entry in record["notebooks"]:
        _settle(run, entry)
    run.save()
    return run


def _settle(run: Run, entry: dict[str, Any]) -> None:
    """Say of a notebook of an earlier command what is true now: we have the lock."""
    if entry["status"] == "running":  # it was cut off
        entry["status"] = "pending"
    elif entry["status"] in DONE and (reason := run.unread(entry["name"])):
        entry |= {"status": "failed", "error": reason}


def _estimate(outputs: Path, names: Sequence[str], profile: str) -> dict[str, float]:
    """Seconds of each notebook in the latest run of the same profile that has it."""
    found: dict[str, float] = {}
    for path in sorted(outputs.glob("*/run.json"), key=lambda p: p.stat().st_mtime):
        run = read_json(path)
        for entry in run.get("notebooks", []) if run.get("profile") == profile else []:
            if entry.get("seconds") and entry["status"] in DONE and entry["name"] in names:
                found[entry["name"]] = entry["seconds"]
    return found


def _clear(folder: Path, name: str) -> None:
    """Remove what an earlier execution of a notebook left, so that old and new never mix."""
    for part in ("state/{}.json", "findings/{}.json", "reports/{}.html", "notebooks/{}.ipynb"):
        (folder / part.format(name)).unlink(missing_ok=True)
    shutil.rmtree(folder / "traces" / name, ignore_errors=True)


def _one(run: Run, notebook: Notebook, values: dict[str, Any], key: str) -> None:
    """Execute a notebook and record how it ended, with its key where it ended well."""
    entry = run.entry(notebook.name)
    _clear(run.folder, notebook.name)
    entry |= {"status": "running", "error": None} | {key: run.record[key] for key in MADE}
    run.save()
    start = time.monotonic()
    error = run_notebook(notebook.path, run.folder, values)
    entry["seconds"] = round(time.monotonic() - start, 1)
    error = error or run.unread(notebook.name) or None
    entry |= {"status": "failed" if error else "ok", "error": error}
    if error is None:
        save_state(run.folder, notebook.name, key, entry["seconds"])
    run.save()


def _pages(run: Run) -> None:
    """Render the page of every executed notebook; all of them, because that is quick."""
    entries = [e for e in run.record["notebooks"] if e["status"] in (*DONE, "failed")]
    names = [entry["name"] for entry in entries]
    for i, entry in enumerate(entries):
        executed = run.folder / "notebooks" / f"{entry['name']}.ipynb"
        if not executed.exists():
            continue
        render_notebook(
            executed,
            run.folder / "reports" / f"{entry['name']}.html",
            title=entry["title"],
            run_name=run.record["name"],
            status=entry["status"],
            error=entry["error"],
            findings=run.findings(entry["name"]),
            links=links.of_notebook(run.folder, entry["name"]),
            neighbours=(names[i - 1] if i else None, (names[i + 1 :] or [None])[0]),
        )


def _work(
    request: ReportRequest,
    run: Run,
    chosen: Sequence[Notebook],
    values: Mapping[str, Any],
    identity: dict[str, Any],
) -> None:
    """Run the notebooks one after another, but for those that are done and unchanged."""
    known = _estimate(request.outputs, [n.name for n in chosen], request.profile)
    for i, notebook in enumerate(chosen):
        own = values[notebook.name]
        key = resume_key(notebook, own, identity)
        head = f"[{i + 1}/{len(chosen)}] {notebook.name}"
        done = is_done(run.folder, notebook.name, key) and not run.unread(notebook.name)
        if done and not request.force:
            run.entry(notebook.name)["status"] = "kept"
            print(f"{head}: kept, nothing changed (FORCE=1 runs it again)", flush=True)
            continue
        left = [known.get(n.name) for n in chosen[i:]]
        guess = f", about {duration(sum(left))} left" if all(left) else ""  # type: ignore[arg-type]
        print(f"{head}: running{guess} ...", flush=True)
        _one(run, notebook, own, key)
        entry = run.entry(notebook.name)
        end = f"FAILED: {entry['error']}" if entry["error"] else "done"
        print(f"{head}: {end} in {duration(entry['seconds'])}", flush=True)
        _pages(run)


def _status(run: Run) -> str:
    """The status of the whole run, with the notebooks of earlier commands."""
    states = {entry["status"] for entry in run.record["notebooks"]}
    if "failed" in states:
        return "failed"
    return "finished" if states <= set(DONE) else "unfinished"


def _finish(request: ReportRequest, run: Run, chosen: Sequence[Notebook]) -> int:
    """Write the results and the pages, and print how the run ended; the exit code."""
    _pages(run)
    good = all(run.entry(notebook.name)["status"] in DONE for notebook in chosen)
    ended = datetime.now(UTC).isoformat(timespec="seconds")
    run.record |= {"status": _status(run), "finished": ended}
    run.save()
    write_runs_index(request.outputs)
    for finding in findings_of(run.folder):
        print(f"  {words.sentence(finding)} Answers: {words.answers(finding.quality)}.")
    print(f"\n{_shown(run.folder / 'index.html')}")
    return 0 if good else 1


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def run_reports(request: ReportRequest) -> int:
    """Run the notebooks of a request and write their pages.

    Returns 0 where every notebook ended well, 1 where one did not, 130 after Ctrl-C. Raises
    LabkitError for a request that does not fit, before anything is run or written.
    """
    chosen, values = plan(request)
    identity = identify(request)
    folder = folder_of(request, identity)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise LabkitError(
            f"another `make reports` is working on {folder.name}. Wait for it, or give RUN=name."
        ) from None
    terminate = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run = _open(request, folder, identity, chosen)
        atomic_write(folder / "environment.json", json.dumps(identity["environment"], indent=1))
        _work(request, run, chosen, values, identity)
        return _finish(request, run, chosen)
    except KeyboardInterrupt:
        print(f"\nInterrupted. {_shown(folder)} keeps what is done; the same command goes on.")
        return 130
    except OSError as error:
        raise LabkitError(
            f"{_shown(folder)} could not be written: {error.strerror or error}. The run stays "
            "marked unfinished; the same command goes on once there is room."
        ) from error
    finally:
        signal.signal(signal.SIGTERM, terminate)
        lock.release()
