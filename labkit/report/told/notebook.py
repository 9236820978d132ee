"""Where a notebook saves its findings: in the folder of the run that executes it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labkit.base.paths import atomic_write, json_text, project_root
from labkit.errors import FindingsError
from labkit.report.told import words
from labkit.report.told.finding import Finding, to_json
from labkit.report.told.plots import show_findings


def current_run() -> Path:
    """The folder of the run that executes this notebook; outputs/interactive without a run."""
    given = os.environ.get("LABKIT_RUN_DIR")
    return Path(given) if given else project_root() / "outputs" / "interactive"


def run_folder() -> Path | None:
    """The folder of the run that executes this notebook; None without a run."""
    return current_run() if "LABKIT_RUN_DIR" in os.environ else None


def live() -> bool:
    """Whether a person works in this notebook; False where a run executes it."""
    return "LABKIT_HEADLESS" not in os.environ


def save_findings(notebook: str, findings: Sequence[Finding]) -> Path:
    """Write a notebook's findings and show them; returns the file.

    Raises ValueError for a finding of another notebook, and FindingsError, which tells them, where
    they cannot be written.
    """
    wrong = [finding.notebook for finding in findings if finding.notebook != notebook]
    if wrong:
        raise ValueError(f"findings of {wrong[0]} cannot be saved as those of {notebook}.")
    path = current_run() / "findings" / f"{notebook}.json"
    show_findings(findings)  # first: a page shows them even where the file cannot be written
    try:
        atomic_write(path, to_json(findings))
    except OSError as error:
        told = " ".join(map(words.sentence, findings))
        raise FindingsError(
            f"the findings cannot be written to {path} ({error.strerror}). They are: {told}"
        ) from error
    return path


def save_samples(notebook: str, name: str, data: Mapping[str, Any]) -> Path:
    """Write raw samples into the run's traces folder; returns the file."""
    path = current_run() / "traces" / notebook / f"{name}.json"
    atomic_write(path, json_text(data) + "\n")
    return path
