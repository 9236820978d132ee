"""Wrong requests, failures and interruptions: a run that is not done never looks finished."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from filelock import FileLock

from labkit.errors import LabkitError, ParameterError
from labkit.report.runs import run as run_module
from labkit.report.runs import watch
from labkit.report.runs.execute import NOT_WRITTEN, execute
from labkit.report.runs.request import plan
from labkit.report.runs.run import run_reports
from tests.run_helpers import IDENTITY, record, states, write


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


@pytest.mark.parametrize(
    ("text", "words"), [("ronds: 3", "Did you mean rounds"), ("a: [1", "not YAML")]
)
def test_bad_params_are_refused_before_anything_is_made(request_, tmp_path, text, words):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=words):
        run_reports(replace(request_, params=path))
    assert not request_.outputs.exists()


@pytest.mark.parametrize("text", ["model: x", "00_good: {device: cpu}"])
def test_params_may_not_set_what_belongs_to_the_run(request_, tmp_path, text):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError, match="belongs to the whole run. Give (MODEL|DEVICE)="):
        run_reports(replace(request_, params=path))


def test_a_local_model_is_handed_on_by_its_full_path(request_, tmp_path, monkeypatch):
    """Notebooks run in another folder, where a relative path would not be found."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    for given, expected in (("here", str(tmp_path / "here")), ("org/name", "org/name"), ("", "")):
        values = plan(replace(request_, model=given)).values
        assert values["00_good"]["model"] == expected


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
    """The system refuses to write: no file may be larger than 3 kB, as on a disk that is full."""
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


def test_half_a_notebook_is_no_notebook(request_, monkeypatch):
    """A full disk cuts off the executed notebook: it is removed, and the run says why."""
    watch.run_notebook(request_.notebooks / "00_good.ipynb", request_.outputs / "r", {})

    def half(command, **given):
        Path(command[4]).write_text('{"cells": [{"cell_ty')
        return popen([sys.executable, "-c", f"exit({NOT_WRITTEN})"], **given)

    popen = subprocess.Popen
    monkeypatch.setattr(watch.subprocess, "Popen", half)
    assert run_reports(request_) == 1
    assert "could not be written" in record(request_)["notebooks"][0]["error"]
    assert not list((request_.outputs / "r" / "notebooks").iterdir())
    assert record(request_)["status"] == "failed"


def test_a_disk_that_is_full_has_a_code_of_its_own(monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("papermill.execute_notebook", full)
    monkeypatch.setenv("JUPYTER_PATH", "")
    assert execute(tmp_path / "a.ipynb", tmp_path / "b.ipynb", {}) == NOT_WRITTEN


INTERRUPTED = """
import sys
from pathlib import Path
from labkit.report.runs import run
from labkit.report.runs.request import ReportRequest
run.identify = lambda _: {identity!r}
request = ReportRequest(name="r", outputs=Path({outputs!r}), notebooks=Path({notebooks!r}))
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
    # In the background of a shell, a process would otherwise ignore Ctrl-C.
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 240
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


def test_what_an_earlier_command_left_undone_is_not_called_failed(request_):
    """After an interruption, ONLY runs one of two notebooks: the run stays unfinished."""
    write(request_.notebooks, "01_more")
    folder = request_.outputs / "r"
    folder.mkdir(parents=True)
    cut = {"name": "01_more", "title": "more", "status": "running", "seconds": None, "error": None}
    (folder / "run.json").write_text(json.dumps({"notebooks": [cut]}))
    assert run_reports(replace(request_, only="00")) == 0
    assert states(request_) == {"00_good": "ok", "01_more": "pending"}
    assert record(request_)["status"] == "unfinished"
    assert run_reports(request_) == 0
    assert record(request_)["status"] == "finished"
