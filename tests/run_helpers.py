"""Small notebooks in a temporary folder, requests to run them, and a stand-in for their process."""

from __future__ import annotations

import json
from typing import Any

import nbformat

from labkit.base.paths import atomic_write
from labkit.report.runs import run as run_module
from labkit.report.runs.request import ReportRequest
from labkit.report.told.finding import rows_in, to_json
from tests.browser_helpers import consistent

IDENTITY: dict[str, Any] = {
    "model": "tiny",
    "weights": [["model.safetensors", 1, 2]],
    "device": "cpu",
    "machine": "a machine",
    "torch": "0",
    "environment": {
        "device": "a machine",
        "memory_bytes": 1e9,
        "versions": {"torch": "0"},
        "git_revision": "abc1234",
        "git_changed": False,
    },
}
PARAMETERS = "model: str = ''\ndevice: str = 'auto'\nrounds: int = 3"
SAVE = """
from labkit.report.told.finding import Finding
from labkit.report.told.notebook import save_findings
_ = save_findings(NAME, [Finding(
    notebook=NAME, technique="t", variant="new", baseline="old", phase="decode", metric="tpot",
    unit="s", value=1.0, baseline_value=2.0, speedup=2.0, speedup_low=1.9, speedup_high=2.1,
    verdict="faster", limit=FRACTION, fraction_of_limit=FRACTION, samples=rounds)])
"""


def write(folder, name, *code, fraction=0.5):
    """A notebook of these code cells, then one that saves a finding."""
    made = [nbformat.v4.new_markdown_cell(f"# Notebook {name}")]
    tagged = nbformat.v4.new_code_cell(PARAMETERS)
    tagged.metadata["tags"] = ["parameters"]
    save = SAVE.replace("NAME", repr(name)).replace("FRACTION", str(fraction))
    made += [tagged, *map(nbformat.v4.new_code_cell, [*code, save])]
    nbformat.write(nbformat.v4.new_notebook(cells=made), folder / f"{name}.ipynb")


def small_request(tmp_path, monkeypatch) -> ReportRequest:
    """A request to run the notebooks of a temporary folder, for a model that is not looked up."""
    monkeypatch.setattr(run_module, "identify", lambda _: IDENTITY)
    notebooks = tmp_path / "notebooks"
    (notebooks / "profiles").mkdir(parents=True)
    (notebooks / "profiles" / "full.yaml").write_text("rounds: 4\n")
    write(notebooks, "00_good", "print('<script>window.hacked = 1</script>')")
    return ReportRequest(name="r", outputs=tmp_path / "outputs", notebooks=notebooks)


class Executing:
    """In place of a notebook's process: leaves at once what an executed notebook leaves.

    Like a study, it measures the machine where the run has no measurement yet. The second notebook
    needs a measurement that the first does not. content: of the findings, where it is not a good
    one.
    """

    def __init__(self):
        self.measured, self.content = 0, {}

    def __call__(self, source, run, values):
        name, second = source.stem, source.stem.startswith("01")
        for file in ("cpu.json", *(["one-thread.json"] if second else [])):
            if not (run / "hardware" / file).exists():
                self.measured += 1
                atomic_write(run / "hardware" / file, str(self.measured))
        atomic_write(run / "notebooks" / source.name, source.read_text())
        made = to_json([consistent(notebook=name)])
        atomic_write(run / "findings" / f"{name}.json", self.content.get(name, made))


def record(request):
    return json.loads((request.outputs / "r" / "run.json").read_text())


def findings(request):
    """The findings of the whole run, as plain objects."""
    return rows_in(request.outputs / "r" / "findings.json")


def states(request):
    return {entry["name"]: entry["status"] for entry in record(request)["notebooks"]}
