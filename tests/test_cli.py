"""The command: help without torch, errors in one line."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from labkit.cli import main


def run(*arguments):
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize("command", [(), ("limit",), ("reports",), ("bench",), ("compare",)])
def test_help_says_what_there_is(command):
    done = run(*command, "--help")
    assert done.exit_code == 0
    assert "Usage" in done.output


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom labkit.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'transformers', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_running_reports_imports_no_torch_where_it_watches():
    code = "import sys, labkit.report.runs.run\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_limit_on_a_machine_of_the_table():
    done = run("limit", "--machine", "l4", "--dtype", "bfloat16")
    assert done.exit_code == 0, done.output
    assert "NVIDIA L4" in done.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("limit", "no-such"), "no model at"),
        (("limit", "--machine", "abacus"), "Allowed:"),
        (("reports", "--profile", "nope"), "allowed: full, quick"),
        (("reports", "--only", "77"), "names no notebook"),
        (("reports", "--params", "missing.yaml"), "cannot be read"),
        (("bench", "--variants", "nope"), "known are"),
        (("compare", "no-such-run", "other"), "no run named"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, words):
    done = run(*arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert "Traceback" not in done.output


def test_an_unknown_option_is_refused():
    assert run("reports", "--profle", "quick").exit_code == 2
