"""A run that is a good example, and how to spoil it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labkit.report.finding import csv_text
from labkit.report.folders import about
from labkit.report.told.finding import from_row, to_json
from tests.browser_helpers import consistent, entry, write_findings, write_run

MADE = {"profile": "full", "git_revision": "abc1234", "git_changed": False}
NAMES = ("00_good", "01_more")


def good(folder: Path) -> Path:
    """A run of two notebooks that has every file of an example."""
    more = {"notebook": "01_more", "variant": "paged cache"}
    ttft = {"phase": "prefill", "metric": "ttft", "unit": "s", "value": 0.4, "limit": 0.1,
            "limit_low": 0.2}  # fmt: skip
    skipped = {"limit": None, "limit_low": None, "limit_note": "it was faster", "bytes_read": 9.0}
    found = {
        "00_good": [consistent(), consistent(variant="same bytes", value=40.0), consistent(**ttft)],
        "01_more": [consistent(**more), consistent(**more | skipped)],
    }
    write_run(folder, "finished", [entry(name) | MADE for name in NAMES], **MADE)
    for name, findings in found.items():
        for path in (f"findings/{name}.json", f"reports/{name}.html", f"notebooks/{name}.ipynb"):
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(to_json(findings))
    (folder / "hardware").mkdir(exist_ok=True)
    (folder / "hardware" / "0123.json").write_text("{}")
    write_findings(folder, [one for findings in found.values() for one in findings])
    tell_of_the_run(folder)
    return folder


def tell_of_the_run(folder: Path) -> None:
    """findings.json tells of its run what run.json tells."""
    told = about(json.loads((folder / "run.json").read_text()))
    changed(folder / "findings.json", lambda held: held.update(run=told))


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """A JSON file with something in it changed."""
    held = json.loads(path.read_text())
    change(held)
    path.write_text(json.dumps(held))


def with_row(run: Path, **changes: Any) -> None:
    """The second finding changed, alike in every place that holds it."""
    for name in ("findings.json", "findings/00_good.json"):
        changed(run / name, lambda held: held["findings"][1].update(changes))
    rows = json.loads((run / "findings.json").read_text())["findings"]
    with contextlib.suppress(ValueError):  # a finding that cannot be has no row there
        (run / "findings.csv").write_text(csv_text([from_row(row) for row in rows]))
