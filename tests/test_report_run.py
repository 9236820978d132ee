"""Runs: what is kept, what is shown, and what an accident leaves behind."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace

import nbformat
import pytest
from filelock import FileLock

from labkit.errors import LabkitError, ParameterError
from labkit.report import run as run_module
from labkit.report.request import Request
from labkit.report.run import run_reports

IDENTITY = {
    "model": "tiny",
    "weights": [["model.safetensors", 1, 2]],
    "device": "cpu",
    "machine": "a machine",
    "torch": "0",
    "environment": {"device": "a machine", "memory_bytes": 1e9, "versions": {"torch": "0"}},
}
PARAMETERS = "model: str = ''\ndevice: str = 'auto'\nrounds: int = 3"
SAVE = """
from labkit.report.finding import Finding, save_findings
_ = save_findings(NAME, [Finding(
    notebook=NAME, technique="t", variant="new", baseline="old", phase="decode", metric="tpot",
    unit="s", value=1.0, baseline_value=2.0, speedup=2.0, speedup_low=1.9, speedup_high=2.1,
    verdict="faster", limit=0.5, fraction_of_limit=FRACTION, samples=rounds)])
"""


def write(folder, name, *code, fraction=0.5):
    """A notebook of these code cells, then one that saves a finding."""
    made = [nbformat.v4.new_markdown_cell(f"# Notebook {name}")]
    tagged = nbformat.v4.new_code_cell(PARAMETERS)
    tagged.metadata["tags"] = ["parameters"]
    save = SAVE.replace("NAME", repr(name)).replace("FRACTION", str(fraction))
    made += [tagged, *map(nbformat.v4.new_code_cell, [*code, save])]
    nbformat.write(nbformat.v4.new_notebook(cells=made), folder / f"{name}.ipynb")


@pytest.fixture
def request_(tmp_path, monkeypatch):
    """A request for the notebooks of a folder of its own, the model check left out."""
    monkeypatch.setattr(run_module, "check", lambda _: IDENTITY)
    notebooks = tmp_path / "notebooks"
    (notebooks / "profiles").mkdir(parents=True)
    (notebooks / "profiles" / "full.yaml").write_text("rounds: 4\n")
    write(notebooks, "00_good", "print('<script>window.hacked = 1</script>')")
    return Request(name="r", outputs=tmp_path / "outputs", notebooks=notebooks)


def record(request):
    return json.loads((request.outputs / "r" / "run.json").read_text())


def states(request):
    return {entry["name"]: entry["status"] for entry in record(request)["notebooks"]}


def test_a_run_leaves_everything_the_design_names(request_):
    assert run_reports(request_) == 0
    folder = request_.outputs / "r"
    for name in (
        "index.html", "run.json", "findings.json", "environment.json", "reports/00_good.html",
        "notebooks/00_good.ipynb", "findings/00_good.json", "state/00_good.json",
    ):  # fmt: skip
        assert (folder / name).is_file(), name
    assert (request_.outputs / "index.html").is_file()
    assert record(request_)["status"] == "finished"
    findings = json.loads((folder / "findings.json").read_text())
    assert [finding["samples"] for finding in findings] == [4]  # the profile's value
    assert not list(folder.rglob(".*.part.ipynb"))


def test_output_with_a_script_is_shown_not_run(request_):
    run_reports(request_)
    page = (request_.outputs / "r" / "reports" / "00_good.html").read_text()
    assert "<script>window" not in page
    assert "&lt;script&gt;window.hacked" in page


def test_nothing_changed_is_kept_and_force_runs_again(request_, capsys):
    run_reports(request_)
    executed = request_.outputs / "r" / "notebooks" / "00_good.ipynb"
    before = executed.stat().st_mtime_ns
    assert run_reports(request_) == 0
    assert executed.stat().st_mtime_ns == before
    assert states(request_) == {"00_good": "kept"}
    assert "kept" in capsys.readouterr().out
    assert run_reports(replace(request_, force=True)) == 0
    assert executed.stat().st_mtime_ns > before


@pytest.mark.parametrize("change", ["code", "parameters", "model"])
def test_what_a_result_depends_on_makes_it_run_again(request_, change, monkeypatch, tmp_path):
    run_reports(request_)
    executed = request_.outputs / "r" / "notebooks" / "00_good.ipynb"
    before = executed.stat().st_mtime_ns
    if change == "code":
        write(request_.notebooks, "00_good", "print('another')")
    elif change == "parameters":
        (tmp_path / "p.yaml").write_text("rounds: 6")
        request_ = replace(request_, params=tmp_path / "p.yaml")
    else:
        monkeypatch.setattr(run_module, "check", lambda _: IDENTITY | {"weights": [["x", 3, 4]]})
    assert run_reports(request_) == 0
    assert executed.stat().st_mtime_ns > before


def test_a_failing_cell_is_shown_and_the_others_still_run(request_):
    write(request_.notebooks, "01_bad", "raise ValueError('no <b>luck</b>')")
    write(request_.notebooks, "02_after")
    assert run_reports(request_) == 1
    assert states(request_) == {"00_good": "ok", "01_bad": "failed", "02_after": "ok"}
    assert record(request_)["status"] == "failed"
    folder = request_.outputs / "r"
    assert not (folder / "state" / "01_bad.json").exists()
    page = (folder / "reports" / "01_bad.html").read_text()
    assert "no &lt;b&gt;luck&lt;/b&gt;" in page
    assert "ValueError" in (folder / "index.html").read_text()
    write(request_.notebooks, "01_bad")
    assert run_reports(request_) == 0
    assert states(request_) == {"00_good": "kept", "01_bad": "ok", "02_after": "kept"}


def test_a_killed_kernel_is_noticed_and_named(request_):
    write(
        request_.notebooks, "01_killed", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    assert run_reports(request_) == 1
    entry = record(request_)["notebooks"][1]
    assert entry["status"] == "failed"
    assert "kernel died" in entry["error"]
    assert (request_.outputs / "r" / "reports" / "01_killed.html").is_file()


def test_a_notebook_without_findings_has_failed(request_):
    cells = [nbformat.v4.new_code_cell("1 + 1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), request_.notebooks / "03_silent.ipynb")
    assert run_reports(request_) == 1
    assert "without saving its findings" in record(request_)["notebooks"][1]["error"]


def test_more_than_the_limit_is_said_loudly(request_, capsys):
    write(request_.notebooks, "01_magic", fraction=1.2)
    run_reports(request_)
    assert "DEFECT" in capsys.readouterr().err
    assert "Defect." in (request_.outputs / "r" / "index.html").read_text()


def test_only_adds_to_what_is_there(request_):
    write(request_.notebooks, "01_more")
    assert run_reports(replace(request_, only="00")) == 0
    assert states(request_) == {"00_good": "ok"}
    assert run_reports(replace(request_, only="01")) == 0
    assert states(request_) == {"00_good": "ok", "01_more": "ok"}
    assert len(json.loads((request_.outputs / "r" / "findings.json").read_text())) == 2


@pytest.mark.parametrize(
    ("text", "words"), [("ronds: 3", "Did you mean rounds"), ("a: [1", "not YAML")]
)
def test_bad_params_are_refused_before_anything_is_made(request_, tmp_path, text, words):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=words):
        run_reports(replace(request_, params=path))
    assert not request_.outputs.exists()


@pytest.mark.parametrize("name", ["../up", "a/b", "..", ".hidden"])
def test_a_run_name_that_is_no_folder_name_is_refused(request_, name):
    with pytest.raises(ParameterError, match="no folder name"):
        run_reports(replace(request_, name=name))


def test_two_at_once_on_one_run(request_):
    run_reports(request_)
    with (
        FileLock(request_.outputs / "r" / ".lock"),
        pytest.raises(LabkitError, match="another .* is working on r"),
    ):
        run_reports(request_)
    assert record(request_)["status"] == "finished"


def test_a_full_disk_leaves_nothing_that_looks_finished(request_, monkeypatch):
    """A real refusal by the system: no file may grow beyond 3 kB, as on a disk nearly full."""
    whole = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails with an error

    def execute_then_fill(*given):
        error = run_module_notebook(*given)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, whole[1]))
        return error

    run_module_notebook = run_module.run_notebook
    monkeypatch.setattr(run_module, "run_notebook", execute_then_fill)
    try:
        with pytest.raises(LabkitError, match="could not be written.*unfinished"):
            run_reports(request_)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, whole)
        signal.signal(signal.SIGXFSZ, ignored)
    assert record(request_)["status"] == "unfinished"
    monkeypatch.setattr(run_module, "run_notebook", run_module_notebook)
    assert run_reports(request_) == 0
    assert record(request_)["status"] == "finished"


INTERRUPTED = """
import sys
from pathlib import Path
from labkit.report import run
from labkit.report.request import Request
run.check = lambda _: {identity!r}
request = Request(name="r", outputs=Path({outputs!r}), notebooks=Path({notebooks!r}))
sys.exit(run.run_reports(request))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_ctrl_c_keeps_what_is_done_and_goes_on_later(request_, number, code, tmp_path):
    mark = tmp_path / "started"
    write(
        request_.notebooks, "01_long",
        f"import os, time, pathlib\npathlib.Path({str(mark)!r}).write_text(str(os.getpid()))",
        "time.sleep(60)",
    )  # fmt: skip
    script = INTERRUPTED.format(
        identity=IDENTITY, outputs=str(request_.outputs), notebooks=str(request_.notebooks)
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == code
    assert "same command goes on" in said
    assert record(request_)["status"] == "unfinished"
    assert not _alive(int(mark.read_text()))
    write(request_.notebooks, "01_long")
    assert run_reports(request_) == 0
    assert states(request_) == {"00_good": "kept", "01_long": "ok"}


def _alive(pid: int) -> bool:
    for _ in range(50):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    return True


def test_an_unknown_model_or_device_is_refused_before_anything_is_made(request_, monkeypatch):
    monkeypatch.undo()
    for changes, words in (
        ({"model": "no-such"}, "no model at 'no-such'"),
        ({"device": "cuda"}, "torch sees only"),
        ({"dtype": "int3"}, "dtype 'int3' is unknown"),
    ):
        with pytest.raises(LabkitError, match=words):
            run_reports(replace(request_, **changes))
        assert not request_.outputs.exists()
