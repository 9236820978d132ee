"""The device check: one line a check, and an exit code that tells whether all are good."""

import pytest
from click.testing import CliRunner

from labkit.errors import ImpossibleRate
from labkit.timing import device_check
from labkit.timing.device_check import Check


@pytest.fixture
def quick(monkeypatch):
    """Small buffers and one dtype: the lines, not the figures, are looked at."""
    monkeypatch.setattr(device_check, "memory_bytes", lambda _: 2**26)
    monkeypatch.setattr(device_check, "dtypes", lambda _: ["float32"])
    monkeypatch.setattr(device_check, "rates", lambda work, _: work.repeat(1) or [1e9])
    monkeypatch.setattr(device_check, "twice_the_work", lambda *_: 2.0)


def test_every_check_is_a_line_with_a_figure(quick):
    found = CliRunner().invoke(device_check.main, ["--device", "cpu"])
    lines = found.output.splitlines()
    assert lines[-1].startswith(("0 failed", "1 failed", "2 failed"))  # waiting is really timed
    for word in ("device", "ceiling", "waits for cpu", "twice the work", "launch and wait"):
        assert any(word in line for line in lines), word
    assert any("float32 products" in line and "FLOP/s" in line for line in lines)
    assert all(line[:4] in ("ok  ", "FAIL") for line in lines[:-1])


@pytest.mark.parametrize(
    ("found", "code"), [([Check("a", "1")], 0), ([Check("a", "1"), Check("b", "2", False)], 1)]
)
def test_the_exit_code_tells(monkeypatch, found, code):
    monkeypatch.setattr(device_check, "checks", lambda _: iter(found))
    assert CliRunner().invoke(device_check.main, ["--device", "cpu"]).exit_code == code


def test_an_impossible_rate_is_a_line_and_a_failure(monkeypatch):
    def impossible(_):
        yield Check("device", "x")
        raise ImpossibleRate("26 TB/s")

    monkeypatch.setattr(device_check, "checks", impossible)
    found = CliRunner().invoke(device_check.main, ["--device", "cpu"])
    assert found.exit_code == 1
    assert "FAIL  26 TB/s" in found.output
    assert "1 failed" in found.output


def test_an_unknown_device_is_refused():
    found = CliRunner().invoke(device_check.main, ["--device", "tpu"])
    assert found.exit_code == 1
    assert "device 'tpu' is unknown" in found.output
