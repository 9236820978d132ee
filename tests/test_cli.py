"""The command: help without torch, errors in one line."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from labkit.cli import main
from tests.browser_helpers import entry, finding, write_findings, write_run


def run(*arguments):
    return CliRunner().invoke(main, list(arguments))


NAMES = ("limit", "calculator", "try", "reports", "bench", "compare", "share")
COMMANDS = ((), *((name,) for name in NAMES))


@pytest.mark.parametrize("command", COMMANDS)
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
    code = "import sys, labkit.report.runs.run, labkit.report.compare\n"
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_limit_on_a_machine_of_the_table():
    done = run("limit", "--machine", "l4", "--dtype", "bfloat16")
    assert done.exit_code == 0, done.output
    assert "NVIDIA L4" in done.output


def test_the_calculator_answers_here_or_writes_a_page(tmp_path):
    done = run("calculator", "--machine", "l4", "--dtype", "int8", "--price", "0.7")
    assert done.exit_code == 0, done.output
    assert "NVIDIA L4" in done.output
    assert "a million output tokens cost at least" in done.output
    done = run("calculator", "--html", str(tmp_path / "a.html"), "--batch", "3")
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"{tmp_path / 'a.html'}: ")
    assert "<title>Calculator" in (tmp_path / "a.html").read_text()


def test_the_calculator_has_a_name_for_its_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for given in (["--html"], ["--html", "--batch", "3"]):
        assert run("calculator", *given).output.startswith("calculator.html: ")
        (tmp_path / "calculator.html").unlink()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("limit", "no-such"), "no model at"),
        (("limit", "--machine", "abacus"), "Allowed:"),
        (("calculator", "--shape", "llama"), "Allowed: smollm2-135m"),
        (("calculator", "--machine", "abacus"), "Allowed:"),
        (("calculator", "--machine", "l4", "--batch", "0"), "allowed are 1 to 65,536"),
        (("calculator", "--html", "page.txt"), "ends in .html"),
        (("reports", "--profile", "nope"), "allowed: full, quick"),
        (("reports", "--only", "77"), "names no notebook"),
        (("reports", "--params", "missing.yaml"), "cannot be read"),
        (("bench", "--variants", "nope"), "--variants list"),
        (("compare", "no-such-run", "other"), "no run named"),
        (("compare", "example"), "at least two runs; 1 given"),
        (("compare",), "at least two runs; 0 given"),
        (("share", "no-such-run"), "no run named"),
        (("share", "example", "x.pdf"), "FILE must end in .html or .htm"),
        (("share", "example", "outputs/example/index.html"), "a page of the run itself"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, words):
    done = run(*arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert "Traceback" not in done.output


def test_compare_shows_runs_beside_each_other(tmp_path):
    names = [str(tmp_path / name) for name in ("one", "two", "three")]
    for folder in map(Path, names):
        write_run(folder, "finished", [entry("00_good")])
        write_findings(folder, [finding()])
    done = run("compare", *names)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[1].split() == ["one", "two", "three"]
    assert done.output.count("3.10x [2.90, 3.30]") == 3
    (tmp_path / "two" / "findings.json").write_text("[]")
    done = run("compare", *names)
    assert done.exit_code == 2
    assert done.stderr == (
        "error: two: findings.json has schema 1; this version reads 2. `make reports RUN=two "
        "FORCE=1` makes the run anew.\n"
    )


def test_an_unknown_option_is_refused():
    assert run("reports", "--profle", "quick").exit_code == 2


def test_bench_lists_its_variants():
    done = run("bench", "--variants", "list")
    assert done.exit_code == 0
    assert "* plain" in done.output
