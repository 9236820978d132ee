"""A run: one notebook after another, then their pages; an interrupted run goes on where it stopped.

A notebook is done when its state file exists, which is written last.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from labkit.base.command import tell
from labkit.base.paths import read_json
from labkit.base.units import seconds as duration
from labkit.errors import LabkitError, ParameterError
from labkit.report.folders import DONE, entries, findings_of
from labkit.report.pages import links
from labkit.report.pages.html import render_notebook
from labkit.report.pages.index import write_runs_index
from labkit.report.runs.notebooks import Notebook, is_notebook
from labkit.report.runs.record import LEFT, MADE, Run, open_run, try_places
from labkit.report.runs.request import (
    Check,
    Plan,
    ReportRequest,
    folder_of,
    identify,
    plan,
    unchecked,
)
from labkit.report.runs.state import is_done, resume_key, save_state
from labkit.report.runs.watch import run_notebook
from labkit.report.told import busy, words
from labkit.report.told.finding import Finding

_NAMED = 3  # notebooks without an earlier duration


def _estimate(outputs: Path, names: Sequence[str], profile: str) -> dict[str, float]:
    """Seconds of each notebook in the latest run of the same profile that has it."""
    found: dict[str, float] = {}
    runs = [read_json(path) for path in outputs.glob("*/run.json")]
    for run in sorted(runs, key=lambda run: str(run.get("started"))):
        for entry in entries(run) if run.get("profile") == profile else []:
            if entry.get("seconds") and entry["status"] in DONE and entry["name"] in names:
                found[entry["name"]] = entry["seconds"]
    return found


def _left(names: Sequence[str], known: Mapping[str, float]) -> str:
    """How long these notebooks will take by their durations in earlier runs, where there are any.

    known: seconds, by name.
    """
    unknown = [name for name in names if name not in known]
    if len(unknown) == len(names):
        return "no earlier duration known"
    about = f"about {duration(sum(known[name] for name in names if name in known))} left"
    if not unknown:
        return about
    which = ", ".join(unknown[:_NAMED]) + (" and others" if len(unknown) > _NAMED else "")
    return f"{about} without {which} (no earlier duration known)"


def _clear(folder: Path, name: str) -> None:
    """Remove what an earlier execution of a notebook left, so that old and new never mix."""
    for part in LEFT:
        (folder / part.format(name)).unlink(missing_ok=True)
    shutil.rmtree(folder / "traces" / name, ignore_errors=True)


def _key(notebook: Notebook, values: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """What the result of a notebook depends on; empty where its file cannot be read any more."""
    try:
        return resume_key(notebook, values, identity)
    except (ParameterError, OSError):
        return ""


def _one(
    run: Run, notebook: Notebook, values: dict[str, Any], key: str, identity: dict[str, Any]
) -> None:
    """Execute a notebook and record how it ended, with its key where it ended well.

    key: of the notebook as it is now; empty where it cannot be read.
    """
    entry = run.entry(notebook.name)
    _clear(run.folder, notebook.name)
    entry |= {"status": "running", "error": None} | {key: run.record[key] for key in MADE}
    run.save()
    start = time.monotonic()
    error = run_notebook(notebook.path, run.folder, values)
    entry["seconds"] = round(time.monotonic() - start, 1)
    error = error or run.lost(notebook.name) or None
    if error is None and (not key or _key(notebook, values, identity) != key):
        error = (
            "it, or code that it imports, was edited while it ran: the same command runs it anew"
        )
    entry |= {"status": "failed" if error else "ok", "error": error}
    if error is None:
        save_state(run.folder, notebook.name, key, entry["seconds"])
    run.save()


def _pages(run: Run) -> None:
    """Render the page of every executed notebook; all of them, because that is quick."""
    shown = [e for e in run.record["notebooks"] if e["status"] in (*DONE, "failed")]
    names = [entry["name"] for entry in shown]
    for i, entry in enumerate(shown):
        executed = run.folder / "notebooks" / f"{entry['name']}.ipynb"
        if not is_notebook(executed):
            continue
        render_notebook(
            executed,
            run.folder / "reports" / f"{entry['name']}.html",
            title=entry["title"],
            run_name=run.record["name"],
            status=entry["status"],
            error=entry.get("error"),
            findings=run.findings(entry["name"]),
            links=links.of_notebook(run.folder, entry["name"]),
            busy=busy.of_page(run.folder, entry["name"]),
            neighbours=(names[i - 1] if i else None, (names[i + 1 :] or [None])[0]),
        )


def _work(request: ReportRequest, run: Run, asked: Plan, identity: dict[str, Any]) -> None:
    """Run the notebooks one after another, but for those that are done and unchanged."""
    chosen = asked.chosen
    known = _estimate(request.outputs, [n.name for n in chosen], request.profile)
    for i, notebook in enumerate(chosen):
        own = asked.values[notebook.name]
        key = _key(notebook, own, identity)
        head = f"[{i + 1}/{len(chosen)}] {notebook.name}"
        done = is_done(run.folder, notebook.name, key)
        if done and not run.lost(notebook.name) and not request.force:
            run.entry(notebook.name)["status"] = "kept"
            tell(f"{head}: kept, nothing changed (FORCE=1 runs it again)")
            continue
        tell(f"{head}: running, {_left([n.name for n in chosen[i:]], known)} ...")
        _one(run, notebook, own, key, identity)
        entry = run.entry(notebook.name)
        end = f"FAILED: {entry['error']}" if entry["error"] else "done"
        tell(f"{head}: {words.printable(end)} in {duration(entry['seconds'])}")
        _pages(run)
        write_runs_index(request.outputs)  # what the pages link to


def _status(run: Run) -> str:
    """The status of the whole run, with the notebooks of earlier commands."""
    states = {entry["status"] for entry in run.record["notebooks"]}
    if "failed" in states:
        return "failed"
    return "finished" if states <= set(DONE) else "unfinished"


def _finish(request: ReportRequest, run: Run, chosen: Sequence[Notebook]) -> int:
    """Print the results, write them and the pages, and say how the run ended; the exit code."""
    _pages(run)
    good = all(run.entry(notebook.name)["status"] in DONE for notebook in chosen)
    ended = datetime.now(UTC).isoformat(timespec="seconds")
    run.record |= {"status": _status(run), "finished": ended}
    run.save()
    write_runs_index(request.outputs)
    _tell(findings_of(run.folder))
    tell(f"\n{_shown(run.folder / 'index.html')}")
    return 0 if good else 1


def _tell(findings: Sequence[Finding]) -> None:
    for finding in findings:
        told = f"{words.sentence(finding)} Answers: {words.answers(finding.quality)}."
        tell(f"  {words.printable(told)}")


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):  # elsewhere, or the current folder was removed
        return str(path)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let no other command work on this run; SIGTERM ends this one as Ctrl-C does."""
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise LabkitError(
            f"another `make reports` is working on {folder.name}. Wait for it, or give RUN=name."
        ) from None
    terminate = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, terminate)
        lock.release()


def run_reports(request: ReportRequest, check: Check = unchecked) -> int:
    """Run the notebooks of a request and write their pages.

    check: what the notebooks' parameters may be. Returns 0 where every notebook ended well, 1 where
    one did not, 130 after Ctrl-C. Raises LabkitError for a request that does not fit, before
    anything is run or written, and where the folder cannot be written; what was measured by then is
    printed.
    """
    asked = plan(request, check)
    identity = identify(request)
    asked.check(check, identity)
    folder = folder_of(request, identity)
    run = None
    try:
        try_places(request.outputs, folder, asked.chosen)
        with _alone(folder):
            run = open_run(request, folder, identity, asked)
            _work(request, run, asked, identity)
            return _finish(request, run, asked.chosen)
    except KeyboardInterrupt:
        tell(f"\nInterrupted. {_shown(folder)} keeps what is done; the same command goes on.")
        return 130
    except OSError as error:
        if run is not None:
            _tell(run.all_findings())
        raise LabkitError(
            f"{_shown(folder)} could not be written: {error.strerror or error}. The run stays "
            "marked unfinished; the same command goes on once there is room."
        ) from error
