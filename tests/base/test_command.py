"""However a command ends, it is a line and an exit code."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner

from labkit.base.command import clear_errors, show, tell
from labkit.errors import LabkitError


def ended(act: Callable[[], object]) -> tuple[int, str, str]:
    done = CliRunner().invoke(click.command()(clear_errors(act)))
    return done.exit_code, done.stdout, done.stderr


def fail(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (LabkitError("so"), 2, "error: so\n"),
        (LabkitError("a\x1b[2Jb\udcffc"), 2, "error: a\ufffd[2Jb\ufffdc\n"),
        (PermissionError(13, "Permission denied", "/x"), 2, "error: /x: Permission denied.\n"),
        (OSError("odd"), 2, "error: the system: odd.\n"),
        (MemoryError(), 2, "error: memory ran out: take a smaller model or fewer tokens.\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_errors_that_a_user_can_cause(error: BaseException, code: int, said: str) -> None:
    assert ended(fail(error)) == (code, "", said)


def test_the_exit_code_is_what_the_command_returns() -> None:
    assert ended(lambda: None) == (0, "", "")
    assert ended(lambda: 1) == (1, "", "")


def test_names_that_are_no_utf_8_are_printed_escaped() -> None:
    assert ended(lambda: show("run \udcff")) == (0, "run \\udcff\n", "")


SHOWING = """
import click
from labkit.base.command import clear_errors, show, tell
@click.command()
@clear_errors
def main():
    for _ in range(3):
        tell("on the way")
    {act}
main()
"""


def run_into(path: str, act: str) -> subprocess.CompletedProcess[str]:
    code = SHOWING.format(act=act)
    with open(path, "w") as out:
        return subprocess.run(
            [sys.executable, "-c", code], stdout=out, stderr=subprocess.PIPE, text=True, check=False
        )


def test_a_full_disk_below_the_output_is_told_and_stops_no_long_command() -> None:
    done = run_into("/dev/full", "return 7")
    assert (done.returncode, done.stderr) == (7, "")
    code = SHOWING.format(act='show("x")').replace('tell("on the way")', "pass")
    with open("/dev/full", "w") as out:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=out, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (
        2, "error: the result could not be printed (No space left on device).\n",
    )  # fmt: skip


def test_a_reader_that_has_gone_is_no_error_in_words() -> None:
    code = SHOWING.format(act='show("x" * 10**6); show("y")').replace('tell("on the way")', "pass")
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait() == 1


def test_tell_goes_on_where_nobody_reads(capsys: pytest.CaptureFixture[str]) -> None:
    tell("so far")
    assert capsys.readouterr().out == "so far\n"
