"""Where a notebook saves its findings: in the folder of the run that executes it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labkit.base.paths import atomic_write, project_root
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

    Raises ValueError for a finding of another notebook.
    """
    wrong = [finding.notebook for finding in findings if finding.notebook != notebook]
    if wrong:
        raise ValueError(f"findings of {wrong[0]} cannot be saved as those of {notebook}.")
    path = current_run() / "findings" / f"{notebook}.json"
    atomic_write(path, to_json(findings))
    show_findings(findings)
    return path


def save_samples(notebook: str, name: str, data: Mapping[str, Any]) -> Path:
    """Write raw samples into the run's traces folder; returns the file."""
    path = current_run() / "traces" / notebook / f"{name}.json"
    atomic_write(path, json.dumps(data) + "\n")
    return path
