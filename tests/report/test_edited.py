"""A notebook that is edited while it runs, or code that it imports, is not kept as done."""

from __future__ import annotations

from labkit.report.runs import run as run_module
from labkit.report.runs import state
from labkit.report.runs.run import run_reports
from tests.run_helpers import record, states, write


def edit_meanwhile(monkeypatch, executing, edit):
    def run(source, folder, values):
        executing(source, folder, values)
        edit()

    monkeypatch.setattr(run_module, "run_notebook", run)


def assert_it_runs_again(request, monkeypatch, executing):
    folder = request.outputs / "r"
    assert states(request) == {"00_good": "failed"}
    assert "edited while it ran" in record(request)["notebooks"][0]["error"]
    assert not (folder / "state" / "00_good.json").exists()
    monkeypatch.setattr(run_module, "run_notebook", executing)
    assert run_reports(request) == 0
    assert states(request) == {"00_good": "ok"}
    assert run_reports(request) == 0
    assert states(request) == {"00_good": "kept"}


def test_a_notebook_that_is_edited_while_it_runs(request_, executing, monkeypatch):
    edit_meanwhile(
        monkeypatch, executing, lambda: write(request_.notebooks, "00_good", "print('new')")
    )
    assert run_reports(request_) == 1
    assert_it_runs_again(request_, monkeypatch, executing)


def test_a_notebook_that_is_broken_while_it_runs(request_, executing, monkeypatch):
    path = request_.notebooks / "00_good.ipynb"
    whole = path.read_text()
    edit_meanwhile(monkeypatch, executing, lambda: path.write_text("{"))
    assert run_reports(request_) == 1
    path.write_text(whole)
    assert_it_runs_again(request_, monkeypatch, executing)


def test_code_that_is_edited_while_it_runs(request_, executing, monkeypatch, tmp_path):
    package = tmp_path / "labkit"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "told.py").write_text("x = 1")
    (package / "other.py").write_text("x = 1")
    write(request_.notebooks, "00_good", "import labkit.told")
    monkeypatch.setattr(state, "project_root", lambda: tmp_path)
    edit_meanwhile(monkeypatch, executing, lambda: (package / "told.py").write_text("x = 2"))
    assert run_reports(request_) == 1
    assert_it_runs_again(request_, monkeypatch, executing)
    edit_meanwhile(monkeypatch, executing, lambda: (package / "other.py").write_text("x = 2"))
    write(request_.notebooks, "00_good", "import labkit.told as t")
    assert run_reports(request_) == 0  # it does not import that one
