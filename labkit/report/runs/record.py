"""A run's folder and its run.json: begun, continued, and read back.

run.json says `unfinished` until the run ends, so that a run that was cut off never looks complete.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit.base.paths import atomic_write, json_text, read_json
from labkit.base.places import try_file, try_folder, try_target
from labkit.errors import FindingsError
from labkit.report.finding import csv_text
from labkit.report.folders import DONE, about, entries, read_findings
from labkit.report.pages.index import write_run_index
from labkit.report.runs.notebooks import Notebook, is_notebook
from labkit.report.runs.request import Plan, ReportRequest
from labkit.report.told.finding import Finding, to_json

# What a notebook is made with; a continued run may keep notebooks of another revision or profile.
MADE = ("profile", "git_revision", "git_changed")
# What a notebook leaves in the folder of its run.
LEFT = ("state/{}.json", "findings/{}.json", "reports/{}.html", "notebooks/{}.ipynb")
_FOLDERS = ("state", "findings", "reports", "notebooks", "traces", "hardware")
_FILES = ("run.json", "findings.json", "findings.csv", "environment.json", "index.html")
_REMEDY = "give another RUN=name, or make room there"


@dataclass
class Run:
    """A run's folder and the content of its run.json."""

    folder: Path
    record: dict[str, Any]

    def save(self) -> None:
        """Write findings.json, findings.csv, run.json and the run's index page."""
        found = self.all_findings()
        atomic_write(self.folder / "findings.json", to_json(found, about(self.record)))
        atomic_write(self.folder / "findings.csv", csv_text(found))
        atomic_write(self.folder / "run.json", json_text(self.record, indent=1) + "\n")
        write_run_index(self.folder)

    def findings(self, name: str) -> list[Finding]:
        """A notebook's findings; none where it left none, or none that can be read."""
        return [] if self.unread(name) else read_findings(self._left("findings", name, "json"))

    def all_findings(self) -> list[Finding]:
        """Those of every notebook, in the order of the notebooks."""
        return [one for entry in self.record["notebooks"] for one in self.findings(entry["name"])]

    def unread(self, name: str) -> str:
        """Why there are no findings of a notebook; empty where there are."""
        if not self._left("findings", name, "json").exists():
            return "it ended without saving its findings"
        try:
            read_findings(self._left("findings", name, "json"))
        except FindingsError as error:
            return str(error)
        return ""

    def lost(self, name: str) -> str:
        """Why a notebook that was done is not: its findings or its executed file is gone or broken;
        empty where it is."""
        whole = is_notebook(self._left("notebooks", name, "ipynb"))
        return self.unread(name) or ("" if whole else "its executed notebook is gone or broken")

    def _left(self, folder: str, name: str, ending: str) -> Path:
        return self.folder / folder / f"{name}.{ending}"

    def entry(self, name: str) -> dict[str, Any]:
        """A notebook's part of run.json."""
        return next(e for e in self.record["notebooks"] if e["name"] == name)


def try_places(outputs: Path, folder: Path, chosen: Sequence[Notebook]) -> None:
    """Try every place that a run writes to; UnwritableError for the first that cannot be."""
    try_file(
        outputs / "index.html",
        "the list of runs",
        "make the folder writable, or move what is there",
    )
    for path in (folder, *(folder / name for name in _FOLDERS)):
        try_folder(path, "the run's folder", _REMEDY)
    for name in _FILES:
        try_target(folder / name, "the run's file", _REMEDY)
    for notebook in chosen:
        for left in LEFT:
            try_target(folder / left.format(notebook.name), "the run's file", _REMEDY)


def open_run(request: ReportRequest, folder: Path, identity: Mapping[str, Any], asked: Plan) -> Run:
    """Start a run or continue it; notebooks that an earlier command ran stay listed."""
    chosen = asked.chosen
    before = read_json(folder / "run.json")
    known = {entry["name"]: entry for entry in entries(before)}
    anew = request.force and {notebook.name for notebook in chosen} >= set(known)
    started = "" if anew else before.get("started")
    if anew:  # a notebook that is kept would need the measurement that it was told by
        for path in (folder / "hardware").iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for notebook in chosen:
        fresh = {"seconds": None, "error": None} | known.get(notebook.name, {})
        known[notebook.name] = fresh | {
            "name": notebook.name, "title": notebook.title, "status": "pending",
        }  # fmt: skip
    environment = identity["environment"]
    record = {
        "name": folder.name,
        "title": f"How fast can {identity['model']} go on {identity['machine']}?",
        "profile": request.profile,
        # As the tree is now: the run itself may change files that are committed, as the example's.
        "git_revision": environment.get("git_revision"),
        "git_changed": environment.get("git_changed"),
        "status": "unfinished",
        "started": _moment(started) or datetime.now(UTC).isoformat(timespec="seconds"),
        "finished": None,
        "model": identity["model"],
        "device": identity["device"],
        "machine": identity["machine"],
        "dtype": request.dtype,
        "parameters": asked.parameters,
        "notebooks": [known[name] for name in sorted(known)],
    }
    run = Run(folder, record)
    for entry in record["notebooks"]:
        _settle(run, entry)
    atomic_write(folder / "environment.json", json_text(environment, indent=1))
    run.save()
    return run


def _moment(stamp: object) -> str:
    """A time as it is written in run.json; empty for anything else."""
    try:
        return datetime.fromisoformat(str(stamp)).isoformat(timespec="seconds")
    except ValueError:
        return ""


def _settle(run: Run, entry: dict[str, Any]) -> None:
    """Say of a notebook of an earlier command what is true now: we have the lock."""
    if entry["status"] == "running":  # it was cut off
        entry["status"] = "pending"
    elif entry["status"] in DONE and (reason := run.lost(entry["name"])):
        entry |= {"status": "failed", "error": reason}
