"""Quick probes of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.base.interference import Lost
from labkit.limits import measure


class Metered:
    """A meter by which other work had a share of the core time."""

    def __init__(self, share: float) -> None:
        self.share = share

    def now(self) -> None:
        return None

    def since(self, before: None) -> Lost:
        return Lost(1.0, 1, stolen=self.share)


@pytest.fixture
def small(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A few small sizes, into an empty cache, no look at the clock, and no other work."""
    monkeypatch.setattr(measure, "working_sets", lambda largest: [2**16, 2**18, 2**20])
    monkeypatch.setattr(measure, "_largest", lambda device: 2**20)
    monkeypatch.setattr(measure, "check_clock", lambda work: None)
    monkeypatch.setattr(measure, "dtypes", lambda device: ["float32"])
    monkeypatch.setattr(measure, "Meter", lambda: Metered(0.0))
    return own_cache / "hardware"
