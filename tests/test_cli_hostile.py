"""Nothing that is typed after a command ends in a traceback: it is a line and an exit code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.bench import install, quality, random_model
from labkit.bench import run as bench
from labkit.cli import main
from labkit.fast import terminal
from labkit.limits import report as limits
from labkit.optimize.speculative.head import train
from labkit.report import check_example
from labkit.report.pages import picture
from labkit.report.runs import run as run_module
from labkit.studies import speculative_proof, trust

NOT_UTF_8 = os.fsdecode(b"run-\xff\xfe")
ODD = (
    "", " ", ".", "..", "/", "/dev/null", "/dev/full", "/proc/self/mem", "/etc/passwd", "x" * 300,
    "~nobody-here/x", NOT_UTF_8, "\x1b[2J", "a\nb", "--", "0", "-1", "nan", "1e999", "9" * 30,
    "例", "%s", "{}", "*", "cuda:99999999999", "org/name/more", "a.gguf",
)  # fmt: skip


class Measured(AssertionError):
    """Something was going to be measured."""


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise Measured

    for module, name in (
        (bench, "measure_hardware"), (limits, "measure_hardware"), (bench, "measure"),
        (run_module, "run_notebook"), (run_module, "identify"), (quality, "load"),
        (random_model, "write"), (train, "load"), (trust, "load"), (speculative_proof, "load"),
        (terminal, "fastest"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.chdir(tmp_path)


def clean(done: Result) -> None:
    """It ended by itself: with an exit code, and with a line where that is not 0."""
    if isinstance(done.exception, Measured):  # the request was good
        return
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    assert done.exit_code in (0, 1, 2)
    assert "Traceback" not in done.output
    if done.exit_code == 2:
        assert done.stderr.strip()


LIMIT = ("--device", "--dtype", "--prompt-tokens", "--new-tokens", "--machine")
CALCULATOR = (
    "--html", "--shape", "--machine", "--device", "--dtype", "--kv-dtype", "--batch", "--context",
    "--prompt-tokens", "--price",
)  # fmt: skip
REPORTS = ("--profile", "--device", "--only", "--params", "--run", "--model")
BENCH = ("--variants", "--prompt-tokens", "--new-tokens", "--rounds", "--threads", "--json")
TRY = ("--model", "--device", "--max-tokens", "--threads")
COMMANDS = (
    *(("try", option) for option in ("", *TRY)),
    *(("limit", option) for option in ("", *LIMIT)),
    *(("calculator", option) for option in CALCULATOR),
    *(("reports", option) for option in REPORTS),
    *(("bench", option) for option in (*BENCH, "--model")),
    ("compare", ""),
)


@pytest.mark.parametrize(("command", "option"), COMMANDS)
@pytest.mark.parametrize("value", ODD)
def test_odd_values_of_every_option(command: str, option: str, value: str) -> None:
    given = [command, *([option] if option else []), value]
    extra = ["other"] if command == "compare" or (command, bool(option)) == ("try", True) else []
    clean(CliRunner().invoke(main, given + extra))


OTHERS: tuple[tuple[click.Command, tuple[str, ...]], ...] = (
    (quality.main, ("", "--model", "--tokens", "--questions")),
    (random_model.main, ("",)),
    (check_example.main, ("", "--profile")),
    (picture.main, ("",)),
    (train.main, ("--model", "--minutes", "--tokens", "--out")),
    (trust.main, ("--same", "--planted", "--slowdown", "--rounds", "--same-rounds", "--pilot")),
    (speculative_proof.main, ("--model", "--new-tokens", "--outside")),
)


@pytest.mark.parametrize(
    ("command", "options"), OTHERS, ids=lambda one: getattr(one, "__module__", "")
)
def test_odd_values_of_the_modules_that_are_commands(
    command: click.Command, options: tuple[str, ...]
) -> None:
    for option in options:
        for value in ODD:
            clean(CliRunner().invoke(command, [option, value] if option else [value]))
            clean(CliRunner().invoke(command, [value, value, value]))


def test_peers_that_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    for value in ODD:
        if value.startswith("-"):
            continue
        assert install.main([value]) == 2
        assert "error: no peer" in capsys.readouterr().err


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(COMMANDS), st.text(max_size=8), st.text(max_size=4))
def test_any_text_after_any_option(pair: tuple[str, str], value: str, more: str) -> None:
    command, option = pair
    text = value.replace("\0", "")  # no system hands one on
    clean(
        CliRunner().invoke(
            main, [command, *([option] if option else []), text, more.replace("\0", "")]
        )
    )


def test_bench_refuses_a_file_in_a_folder_s_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = CliRunner().invoke(main, ["bench", "--json", str(tmp_path / "file" / "x.json")])
    assert done.exit_code == 2
    assert "cannot be written" in done.stderr


def test_limit_refuses_a_machine_without_a_name() -> None:
    done = CliRunner().invoke(main, ["limit", "--machine", ""])
    assert done.exit_code == 2
    assert "machine '' is unknown" in done.stderr


def test_bench_refuses_a_folder_in_a_file_s_place(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["bench", "--json", str(tmp_path)])
    assert done.exit_code == 2
    assert "cannot be written (Is a directory)" in done.stderr


def test_a_run_of_a_removed_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (gone := tmp_path / "gone").mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for typed in (["compare", "a", "b"], ["limit", "x"], ["bench", "--json", "x.json"]):
        done = CliRunner().invoke(main, typed)
        clean(done)
        assert done.exit_code == 2
