"""Run folders: which there are, the findings in them, and what those tell of their run."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labkit.base.paths import project_root, read_json
from labkit.errors import FindingsError, ParameterError
from labkit.report.told.finding import Finding, load_findings

DONE = ("ok", "kept")  # the status of a notebook that has its findings and its page
# What findings.json tells of its run.
ABOUT = ("name", "model", "dtype", "device", "machine", "profile", "git_revision", "started",
         "status")  # fmt: skip


def runs_in(outputs: Path) -> list[Path]:
    """Folders of runs, even broken ones, the newest first. A live session leaves none."""
    marks = ("run.json", "environment.json", "notebooks")
    folders = sorted(path for path in outputs.iterdir() if not path.name.startswith("."))
    found = [path for path in folders if any((path / mark).exists() for mark in marks)]
    return sorted(
        found, key=lambda path: str(read_json(path / "run.json").get("started", "")), reverse=True
    )


def known_runs() -> str:
    """The names of the runs in outputs, for an error message."""
    outputs = project_root() / "outputs"
    names = [path.name for path in runs_in(outputs)] if outputs.is_dir() else []
    return ", ".join(names) or "none yet"


def find_run(name: str | Path) -> Path:
    """The folder of a run, by its name in outputs or by its path; ParameterError for no run."""
    for path in (project_root() / "outputs" / name, Path(name)):
        with contextlib.suppress(OSError):  # a name that is too long, a folder that is closed
            if (path / "run.json").is_file():
                return path
    raise ParameterError(f"no run named {str(name)!r}; known are: {known_runs()}.")


def read_findings(path: Path) -> list[Finding]:
    """The findings of a file; FindingsError, in one line, where it is not one that we can read."""
    try:
        return load_findings(path)
    except ValueError as error:
        raise FindingsError(str(error)) from error


def findings_of(run: Path) -> list[Finding]:
    """All findings of a run; none where it has no findings.json yet.

    Raises FindingsError, which names the run and what to do, for a file that we cannot read.
    """
    path = run / "findings.json"
    if not path.exists():
        return []
    try:
        return read_findings(path)
    except FindingsError as error:
        name = run.resolve().name
        raise FindingsError(
            f"{name}: {error} `make reports RUN={name} FORCE=1` makes the run anew."
        ) from error


def about(record: Mapping[str, Any]) -> dict[str, Any]:
    """What findings.json tells of its run, from run.json.

    clean: whether every notebook was made from the run's revision, and with nothing uncommitted.
    """
    revision = record.get("git_revision")
    made = [record, *(e for e in record["notebooks"] if e.get("status") in DONE)]
    same = all(one.get("git_revision") == revision for one in made)
    clean = bool(revision) and same and all(one.get("git_changed") is False for one in made)
    return {key: record.get(key) for key in ABOUT} | {"clean": clean}
