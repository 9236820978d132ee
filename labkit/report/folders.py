"""Run folders: which there are, and the findings in them."""

from __future__ import annotations

from pathlib import Path

from labkit.base.paths import project_root, read_json
from labkit.errors import FindingsError, ParameterError
from labkit.report.told.finding import Finding, load_findings


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
        if (path / "run.json").is_file():
            return path
    raise ParameterError(f"no run named {str(name)!r}; known are: {known_runs()}.")


def read_findings(path: Path) -> list[Finding]:
    """The findings of a file; FindingsError, in one line, where it is not one that we can read."""
    try:
        return load_findings(path)
    except OSError as error:
        raise FindingsError(f"{path.name} cannot be read: {error.strerror}.") from error
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
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
