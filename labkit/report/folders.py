"""Run folders: which there are, the findings in them, and what those tell of their run."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labkit.base.nearest import nearest
from labkit.base.paths import project_root, read_json
from labkit.base.units import shown
from labkit.errors import FindingsError, ParameterError
from labkit.report.told.finding import Finding, load_findings

DONE = ("ok", "kept")  # the status of a notebook that has its findings and its page
STATES = ("pending", "running", *DONE, "failed")
# What findings.json tells of its run.
ABOUT = ("name", "model", "dtype", "device", "machine", "profile", "git_revision", "started",
         "status")  # fmt: skip
# What run.json holds of a notebook beside its name and status.
_KINDS = {"title": str, "seconds": float, "error": str, "profile": str, "git_revision": str,
          "git_changed": bool}  # fmt: skip
_NAME = re.compile(r"[^/\\\x00]{1,200}")
_TOLD = 3  # of the known runs


def runs_in(outputs: Path) -> list[Path]:
    """Folders of runs, even broken ones, the newest first. A live session leaves none."""
    marks = ("run.json", "environment.json", "notebooks")
    folders = sorted(path for path in outputs.iterdir() if not path.name.startswith("."))
    found = [path for path in folders if any((path / mark).exists() for mark in marks)]
    return sorted(
        found, key=lambda path: str(read_json(path / "run.json").get("started", "")), reverse=True
    )


def known_runs(name: str = "") -> str:
    """Runs in outputs, for an error message: the one whose name is nearest, then the newest."""
    outputs = project_root() / "outputs"
    names = [path.name for path in runs_in(outputs)] if outputs.is_dir() else []
    told = list(dict.fromkeys([*nearest(name, names), *names]))[:_TOLD]
    more = f" and {len(names) - len(told)} others, which outputs/index.html lists"
    return (", ".join(told) + (more if len(names) > len(told) else "")) or "none yet"


def find_run(name: str | Path) -> Path:
    """The folder of a run, by its name in outputs or by its path; ParameterError for no run."""
    for path in (project_root() / "outputs" / name, Path(name)):
        with contextlib.suppress(OSError):  # a name that is too long, a folder that is closed
            if (path / "run.json").is_file():
                return path
    raise ParameterError(f"no run named {shown(str(name))}; known are: {known_runs(str(name))}.")


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


def entries(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The notebooks of a run.json, each with a name and with values of the kinds that we write.

    The file may hold anything: what is no notebook is left out, a status that we do not know is
    `pending`, and any other value of a wrong kind is None.
    """
    held = record.get("notebooks")
    found = [one for one in held if _is_entry(one)] if isinstance(held, list) else []
    return [_entry(one) for one in {one["name"]: one for one in found}.values()]


def _is_entry(one: object) -> bool:
    """Whether it names a notebook: by a name that stays within the run's folder."""
    name = one.get("name") if isinstance(one, dict) else None
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def _entry(one: Mapping[str, Any]) -> dict[str, Any]:
    name, known = one["name"], one.get("status") in STATES
    kinds = {key: kind for key, kind in _KINDS.items() if key in one}
    found = {key: _of_kind(one[key], kind) for key, kind in kinds.items()}
    title = found.get("title") or name
    return found | {"name": name, "title": title, "status": one["status"] if known else "pending"}


def _of_kind(value: Any, kind: type) -> Any:
    """A value if it is of a kind; a time is a number that is not negative, and no truth value."""
    if kind is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return value if is_number and 0 <= value < math.inf else None
    return value if isinstance(value, kind) else None


def object_in(record: Mapping[str, Any], key: str) -> dict[str, Any]:
    """What a record holds under a key, if it is an object; else an empty one."""
    found = record.get(key)
    return found if isinstance(found, dict) else {}


def about(record: Mapping[str, Any]) -> dict[str, Any]:
    """What findings.json tells of its run, from run.json.

    clean: whether every notebook was made from the run's revision, and with nothing uncommitted.
    """
    revision = record.get("git_revision")
    made = [record, *(e for e in entries(record) if e["status"] in DONE)]
    same = all(one.get("git_revision") == revision for one in made)
    clean = bool(revision) and same and all(one.get("git_changed") is False for one in made)
    return {key: record.get(key) for key in ABOUT} | {"clean": clean}
