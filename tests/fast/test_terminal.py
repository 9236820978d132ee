"""`labkit try`: the answer on stdout, everything else on stderr."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from labkit.cli import main
from labkit.fast import terminal
from tests.fast.told import Letters, Told, session
from tests.tiny import save_tiny_model

ANSWER = [5, 6, 7, 8, 5, 6, 7, 8]
LINE = re.compile(r"^(\d+) tokens?(, [\d.,]+ tok/s, .*(limit).*)?, (\d+) of (\d+) drafts accepted")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("model")))


def run(*arguments: str, stdin: Any = None) -> Result:
    return CliRunner().invoke(main, ["try", *arguments], input=stdin)


def test_a_real_answer_and_its_line(model: str) -> None:
    done = run("hello hello hello", "--model", model, "--max-tokens", "24", "--threads", "1")
    assert done.exit_code == 0, done.output
    last = done.stderr.splitlines()[-1]
    found = LINE.match(last)
    assert found is not None, last
    assert 1 <= int(found[1]) <= 24
    assert int(found[4]) <= int(found[5])
    assert done.stdout.endswith("\n")
    plain = run("hello hello hello", "--model", model, "--max-tokens", "24", "--threads", "1",
                "--no-drafts")  # fmt: skip
    assert plain.stdout == done.stdout
    assert "drafts" not in plain.stderr.splitlines()[-1]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Told:
    """A decoder that answers whatever is asked; `labkit try` takes it."""
    decoder = Told(5, ANSWER, 97)

    def fastest(*_: Any, **options: Any) -> Any:
        print("Converting once ...")  # as loading does
        options["tell"]("one line")
        return session(decoder)

    monkeypatch.setattr(terminal, "fastest", fastest)
    return decoder


def test_stdout_has_the_answer_alone(stub: Told) -> None:
    done = run("hello", "--max-tokens", "8")
    assert done.stdout == Letters().decode(ANSWER) + "\n"
    notes = done.stderr.splitlines()
    assert notes[:2] == ["Converting once ...", "one line"]
    assert LINE.match(notes[2])


@pytest.mark.parametrize("text", ["hello", "hello\n", "hello\r\n"])
def test_the_prompt_may_come_from_stdin(stub: Told, text: str) -> None:
    assert run("-", "--max-tokens", "8", stdin=text).stdout == Letters().decode(ANSWER) + "\n"


@pytest.mark.parametrize(
    ("arguments", "stdin", "words"),
    [
        (("-",), b"ab\xff", r"no UTF-8 \(byte 2\)"),
        (("-",), b"", "the prompt is empty"),
        (("",), None, "the prompt is empty"),
        (("a", "--max-tokens", "0"), None, "at least 1"),
        (("a", "--max-tokens", "99999"), None, "context is 256"),
    ],
)
def test_mistakes_are_one_line(stub: Told, arguments: Any, stdin: Any, words: str) -> None:
    done = run(*arguments, stdin=stdin)
    assert done.exit_code == 2
    assert re.search(f"^error: .*{words}", done.stderr, re.MULTILINE)
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments", [("x", "--model", "no-such"), ("x", "--threads", "0"), ("x", "--device", "tpu")]
)
def test_what_cannot_be_loaded_is_one_line(arguments: Any) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.output


@pytest.mark.parametrize("at", [1, 2, 4])
def test_ctrl_c_leaves_what_was_shown_and_tells_the_figures(stub: Told, at: int) -> None:
    stub.breaks = at, KeyboardInterrupt()
    done = run("hello", "--max-tokens", "8")
    assert done.exit_code == 130
    whole = Letters().decode(ANSWER)
    assert whole.startswith(done.stdout.strip())
    assert done.stdout.endswith("\n")
    assert re.match(r"interrupted after \d+ token", done.stderr.splitlines()[-1])


def test_control_characters_do_not_reach_a_terminal() -> None:
    given = "a\x1b[2Jb\rc\n\td\x00\x9b推理 \u3000👩‍💻"
    assert terminal.for_terminal(given) == "a\\x1b[2Jb\\rc\n\td\\x00\\x9b推理 \u3000👩‍💻"


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_a_real_ctrl_c(model: str) -> None:
    """Of the command as it is started: SIGINT in the middle of an answer."""
    done = subprocess.Popen(
        [sys.executable, "-m", "labkit", "try", "hello", "--model", model, "--max-tokens", "480",
         "--threads", "1", "--raw"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.stdout is not None
    assert done.stdout.read(1)  # the answer has begun
    done.send_signal(signal.SIGINT)
    out, err = done.communicate(timeout=60)
    assert b"Traceback" not in err
    assert done.returncode in (0, 130)  # it may have been over
    if done.returncode:
        assert re.search(rb"interrupted", err)
    assert out.endswith(b"\n")
