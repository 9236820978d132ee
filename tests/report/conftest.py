"""What the tests of runs share: a small request, and what stands in for a notebook's process."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.report.runs import run as run_module
from labkit.report.runs.request import ReportRequest
from tests.run_helpers import Executing, small_request


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReportRequest:
    """A request to run one small notebook. Without `executing`, its process is started."""
    return small_request(tmp_path, monkeypatch)


@pytest.fixture
def executing(monkeypatch: pytest.MonkeyPatch) -> Executing:
    """No notebook's process is started: this leaves what it would leave, at once."""
    found = Executing()
    monkeypatch.setattr(run_module, "run_notebook", found)
    return found
