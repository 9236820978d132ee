"""Findings as data for other programs: flat rows, CSV, a pandas DataFrame."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.errors import LabkitError
from labkit.report.folders import find_run, findings_of
from labkit.report.told.finding import Finding

if TYPE_CHECKING:
    import pandas


def flat(finding: Finding) -> dict[str, object]:
    """A finding without nesting: what lies within an object gets a dotted name, engine.version.

    A dot (or a backslash) that is part of a key has a backslash before it, so that no two columns
    share a name.
    """
    return _flattened("", asdict(finding))


def _flattened(prefix: str, values: Mapping[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in values.items():
        name = prefix + str(key).replace("\\", "\\\\").replace(".", "\\.")
        found |= _flattened(f"{name}.", value) if isinstance(value, dict) else {name: value}
    return found


def table_of(findings: Sequence[Finding]) -> tuple[list[str], list[dict[str, object]]]:
    """Columns and flat rows of findings.

    Columns stand in the order of a finding's fields. Of a field that is an object there is a column
    for each part that any finding has.
    """
    rows = [flat(finding) for finding in findings]
    order = {entry.name: number for number, entry in enumerate(fields(Finding))}
    found = dict.fromkeys(column for row in rows for column in row)
    return sorted(found, key=lambda column: order[column.split(".")[0]]), rows


def csv_text(findings: Sequence[Finding]) -> str:
    """Findings as CSV with a header, one row a finding.

    Numbers have all their digits; a list or a truth value is JSON; what a finding lacks is empty.
    """
    columns, rows = table_of(findings)
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    return _line(columns) + "".join(map(_line, cells))


def _line(cells: Sequence[object]) -> str:
    """A line of CSV. It is made with \\r\\n at its end, so that \\r within a cell is quoted too."""
    text = io.StringIO(newline="")
    csv.writer(text).writerow(cells)
    return text.getvalue().removesuffix("\r\n") + "\n"


def _cell(value: object) -> object:
    return json.dumps(value) if isinstance(value, list | bool) else value


def to_dataframe(run: str | Path) -> pandas.DataFrame:
    """The findings of a run, one row each, as a pandas DataFrame.

    run: a folder, or a name in outputs. Columns: as in findings.csv; `ratios` are lists. Raises
    LabkitError where pandas is not installed, where there is no such run, and where its findings
    cannot be read.
    """
    try:
        import pandas
    except ImportError:
        raise LabkitError(
            "to_dataframe needs pandas, which is not installed. In the project's folder: "
            "`python -m pip install -e '.[data]'`. The run's findings.csv holds the same rows."
        ) from None
    columns, rows = table_of(findings_of(find_run(run)))
    return pandas.DataFrame(rows, columns=columns)
