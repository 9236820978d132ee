"""A measurement beside other work: told as such, not kept; and a kept one tells its age."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from labkit.limits import calculator, measure, told
from labkit.limits.measure import measure_hardware
from labkit.limits.report import limit_text
from tests.limits.conftest import Metered
from tests.limits.test_measure import machine


def busy(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr(measure, "Meter", lambda: Metered(share))


def test_a_disturbed_measurement_is_not_kept(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    busy(monkeypatch, 0.31)
    first = measure_hardware("cpu", seconds=0.001)
    assert first.lost == 0.31
    assert first.describe()["lost"] == 0.31
    assert not list(small.glob("*.json"))
    busy(monkeypatch, 0.01)
    second = measure_hardware("cpu", seconds=0.001)  # measured again, without being asked
    assert second.lost == 0.01
    (file,) = small.glob("*.json")
    assert json.loads(file.read_text())["lost"] == 0.01


def test_a_disturbed_measurement_replaces_no_good_one(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_hardware("cpu", seconds=0.001)
    (file,) = small.glob("*.json")
    before = file.read_text()
    busy(monkeypatch, 0.31)
    assert measure_hardware("cpu", seconds=0.001, remeasure=True).lost == 0.31
    assert file.read_text() == before


def test_a_kept_file_that_says_it_was_disturbed_is_measured_again(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_hardware("cpu", seconds=0.001)
    (file,) = small.glob("*.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lost": 0.5}))
    monkeypatch.setattr(measure, "_outdone", lambda kept: False)
    assert measure_hardware("cpu", seconds=0.001).lost == 0.0


def test_a_run_keeps_its_one_measurement_even_if_it_was_disturbed(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy(monkeypatch, 0.31)
    first = measure_hardware("cpu", seconds=0.001, keep=tmp_path / "run")
    busy(monkeypatch, 0.0)
    assert measure_hardware("cpu", seconds=0.001, keep=tmp_path / "run") == first
    assert not list(small.glob("*.json"))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5.0, "just now"),
        (59.0, "just now"),
        (60.0, "1 minute ago"),
        (7000.0, "116 minutes ago"),
        (7200.0, "2 hours ago"),
        (200_000.0, "2 days ago"),
    ],
)
def test_an_age_in_words(seconds: float, words: str) -> None:
    assert told.told_age(seconds) == words


def test_a_shown_limit_says_how_old_it_is_and_how_to_measure_again() -> None:
    at = (datetime.now(UTC) - timedelta(hours=2, minutes=1)).isoformat(timespec="seconds")
    here = replace(machine(_1000=4.0), measured_at=at)
    text = limit_text(calculator.shapes()["smollm2-135m"], here, "x", "float32", 8, 4)
    assert f"measured {at}, 2 hours ago; `labkit limit --remeasure` measures again" in text
    assert "DISTURBED" not in text
    fresh = replace(here, measured_at=datetime.now(UTC).isoformat())
    assert told.measured_when(fresh).endswith("just now")
    assert "an unknown time; `labkit limit" in told.measured_when(machine(_1=4.0))


def test_a_disturbed_limit_says_so_on_the_screen() -> None:
    here = replace(machine(_1000=4.0), lost=0.31)
    text = limit_text(calculator.shapes()["smollm2-135m"], here, "x", "float32", 8, 4)
    assert "DISTURBED Other work had 31% of the core time" in text
    assert "not kept: stop the other work, and the next call measures again" in text
    assert told.told_disturbed(replace(here, lost=0.02)) == ""
    assert told.told_disturbed(replace(here, lost=None)) == ""
