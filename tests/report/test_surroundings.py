"""Places that cannot be written, files that somebody changed, names that no folder can have.

Each is one clear line, and told before a notebook runs.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace

import pytest

from labkit.base.paths import atomic_write
from labkit.errors import FindingsError, LabkitError, ParameterError
from labkit.report.compare import summary
from labkit.report.folders import entries
from labkit.report.pages.index import write_run_index, write_runs_index
from labkit.report.runs import record as record_module
from labkit.report.runs import run as run_module
from labkit.report.runs.request import default_name
from labkit.report.runs.run import run_reports
from labkit.report.told import notebook as told
from tests.browser_helpers import consistent
from tests.run_helpers import IDENTITY, record, states

pytestmark = pytest.mark.usefixtures("executing")
FOLDERS = ("", "state", "findings", "reports", "notebooks", "traces", "hardware")
FILES = (
    *("run.json", "findings.json", "findings.csv", "environment.json", "index.html", ".lock"),
    *("state/00_good.json", "findings/00_good.json", "reports/00_good.html"),
    *("notebooks/00_good.ipynb", "../index.html"),
)


def refused_before_it_runs(request, executing) -> str:
    with pytest.raises(LabkitError) as caught:
        run_reports(request)
    assert executing.measured == 0
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_file_in_a_folder_s_place_is_told_before_anything_runs(request_, executing, name):
    path = request_.outputs / "r" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    assert "cannot be written" in refused_before_it_runs(request_, executing)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_a_file_s_place_is_told_before_anything_runs(request_, executing, name):
    (request_.outputs / "r" / name).mkdir(parents=True)
    assert "be written" in refused_before_it_runs(request_, executing)


def test_outputs_that_is_a_file_or_a_system_s_own(request_, executing):
    request_.outputs.touch()
    assert "cannot be written" in refused_before_it_runs(request_, executing)
    closed = replace(request_, outputs=type(request_.outputs)("/proc/labkit"))
    assert "cannot be written" in refused_before_it_runs(closed, executing)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("run-\udcff", "no folder name"), ("r" * 300, "300 bytes; allowed are 200"),
        ("ä" * 150, "300 bytes"), ("a\nb", "no folder name"), ("\x1b[2J", "no folder name"),
        ("index.html", "no folder name"), (" r", "no folder name"), ("\0", "no folder name"),
    ],
)  # fmt: skip
def test_names_that_no_run_can_have(request_, executing, name, words):
    said = refused_before_it_runs(replace(request_, name=name), executing)
    assert words in said
    assert said.isprintable()


def test_names_in_any_language_are_names(request_):
    for name in ("第一次运行", "é a b", "r" * 200):
        assert run_reports(replace(request_, name=name)) == 0


def test_a_model_of_any_name_gives_a_run_its_name(request_):
    for model in ("org/name", "a\nb", "x" * 300, "\udcff", "../..", "."):
        name = default_name(request_, IDENTITY | {"model": model})
        assert name.isprintable()
        assert len(name) < 120
        assert "/" not in name


def test_what_was_measured_is_printed_where_it_cannot_be_written(request_, monkeypatch, capsys):
    """The disk is full once the notebook has run; what it found is in the terminal."""
    counted = iter(range(100))

    def full(*given):
        if next(counted) < 7:  # the files of a run that begins, and of a notebook that does
            return atomic_write(*given)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(record_module, "atomic_write", full)
    with pytest.raises(LabkitError, match="could not be written: No space left.*unfinished"):
        run_reports(request_)
    assert consistent(notebook="00_good").variant in capsys.readouterr().out


def test_findings_that_cannot_be_saved_are_in_the_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LABKIT_RUN_DIR", str(tmp_path))
    (tmp_path / "findings" / "00_x.json").mkdir(parents=True)
    finding = consistent(notebook="00_x")
    with pytest.raises(FindingsError, match=f"Is a directory.*{finding.variant}"):
        told.save_findings("00_x", [finding])
    assert finding.variant in capsys.readouterr().out  # and on its page


HOSTILE = [
    "", "{", "[]", "7", "null", "NaN", "\x00", "[" * 100_000, '{"notebooks": NaN}',
    '{"notebooks": 3, "started": [1], "profile": {}}',
    '{"notebooks": [1, null, {}, {"name": 3}, {"name": "../../x"}, {"name": "a/b"}]}',
    '{"notebooks": {"00_good": 1}, "parameters": [1], "versions": 3}',
    '{"notebooks": [{"name": "00_good", "status": 7, "seconds": "long", "error": 1, "title": {}}]}',
    '{"notebooks": [{"name": "00_good", "status": "ok", "seconds": NaN, "profile": 3}]}',
    '{"notebooks": [{"name": "00_good", "seconds": -1, "git_revision": {}, "git_changed": "no"}]}',
    '{"notebooks": [{"name": "00_good"}, {"name": "00_good"}], "started": NaN, "profile": "full"}',
    '{"notebooks": [{"name": "' + "n" * 300 + '"}, {"name": "\\ud800"}, {"name": ""}]}',
    '{"started": "0001-01-01T00:00:00+23:00", "model": 1e308, "name": "\\ud800"}',
    '{"device": 3, "memory_bytes": NaN, "versions": [1]}',
    '{"device": "x", "memory_bytes": "8", "versions": {"torch": NaN}}',
    '{"memory_bytes": -1e300, "versions": null, "device": ["\\udcff"]}',
]  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE)
@pytest.mark.parametrize("file", ["run.json", "environment.json", "state/00_good.json"])
def test_whatever_a_file_of_a_run_holds_the_run_goes_on(request_, file, content):
    run_reports(request_)
    folder = request_.outputs / "r"
    (folder / file).write_text(content)
    write_run_index(folder)
    write_runs_index(request_.outputs)
    assert summary(folder)["folder"] == "r"
    assert run_reports(request_) in (0, 1)
    assert states(request_)["00_good"] in ("ok", "kept")
    assert record(request_)["name"] == "r"


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"{}"])
@pytest.mark.parametrize(
    "file", ["run.json", "environment.json", "findings.json", "state/00_good.json",
             "findings/00_good.json", "notebooks/00_good.ipynb", "hardware/cpu.json"],
)  # fmt: skip
def test_a_file_that_is_not_what_it_was_is_made_again(request_, file, content):
    run_reports(request_)
    (request_.outputs / "r" / file).write_bytes(content)
    assert run_reports(request_) == 0
    assert record(request_)["status"] == "finished"


def test_another_run_s_files_stop_no_run(request_):
    for number, content in enumerate(HOSTILE):
        folder = request_.outputs / f"other{number}"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(content)
        (folder / "environment.json").write_text(content)
        (folder / "findings.json").write_text(content)
    os.mkfifo(request_.outputs / "pipe")
    (request_.outputs / "piped").mkdir()
    os.mkfifo(request_.outputs / "piped" / "run.json")
    (request_.outputs / os.fsdecode(b"\xff\xfe")).mkdir()
    (request_.outputs / os.fsdecode(b"\xff\xfe") / "run.json").write_text("{}")
    assert run_reports(request_) == 0


def test_what_a_run_json_holds_of_notebooks_is_of_the_kinds_that_we_write():
    held = {"notebooks": [{"name": "a", "status": "ok", "seconds": 1, "git_changed": 0, "x": 1}]}
    assert entries(held) == [
        {"name": "a", "title": "a", "status": "ok", "seconds": 1, "git_changed": None}
    ]


def test_a_done_notebook_whose_page_is_lost_runs_again(request_):
    run_reports(request_)
    (request_.outputs / "r" / "notebooks" / "00_good.ipynb").write_text("{}")
    assert run_reports(request_) == 0
    assert states(request_) == {"00_good": "ok"}
    assert json.loads((request_.outputs / "r" / "notebooks" / "00_good.ipynb").read_text())["cells"]


def test_a_notebook_that_goes_away_while_others_run_has_failed(request_, executing, monkeypatch):
    shutil.copy(request_.notebooks / "00_good.ipynb", request_.notebooks / "01_gone.ipynb")

    def remove(source, run, values):
        (request_.notebooks / "01_gone.ipynb").unlink(missing_ok=True)
        return executing(source, run, values) if source.exists() else "its file is gone"

    monkeypatch.setattr(run_module, "run_notebook", remove)
    assert run_reports(request_) == 1
    assert states(request_) == {"00_good": "ok", "01_gone": "failed"}


def test_a_wrong_value_is_told_before_and_after_the_model_is_known(request_, executing):
    asked = []

    def check(name, values, identity):
        asked.append((name, values["rounds"], identity and identity["model"]))
        if identity:
            raise ParameterError("too much for this model")

    with pytest.raises(ParameterError, match="too much for this model"):
        run_reports(request_, check)
    assert asked == [("00_good", 4, None), ("00_good", 4, "tiny")]
    assert executing.measured == 0
    assert not request_.outputs.exists()
