"""An outputs folder for the tests of the pages, with notebooks executed as in a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nbformat

from labkit.report.finding import csv_text
from labkit.report.pages import links
from labkit.report.pages.html import render_notebook
from labkit.report.pages.index import write_run_index, write_runs_index
from labkit.report.runs.watch import run_notebook
from labkit.report.told.finding import Finding, load_findings, to_json
from labkit.timing.statistics import interval

HOSTILE = '<script>window.hacked=1</script><img src=x onerror="window.hacked=1">'

_GOOD = [
    (
        "markdown",
        "# The good one\n\nHow fast is $\\frac{a}{b}$, and `why`?\n\n$$t \\ge \\max(x, y)$$",
    ),
    ("parameters", "model: str = ''\nrounds: int = 5"),
    (
        "code",
        "from labkit.report.told.finding import Finding\n"
        "from labkit.report.told.notebook import save_findings, save_samples\n"
        "from labkit.report.told.plots import new_figure, quote, say, show, source, table\n"
        "from IPython.display import HTML, Javascript, display\n"
        "import sys",
    ),
    ("markdown", "# A second title\n\nRaw <b onclick='window.hacked=1'>HTML</b>, and $\\frac{$."),
    (
        "code",
        "figure, axes = new_figure()\n"
        "axes.plot([1, 2, 4], [1.0, 1.9, 3.1], label='1.23456 GB/s')\n"
        "axes.legend()\n"
        "show(figure, alt='Speed rises with size.', caption='One line.')",
    ),
    (
        "code",
        "row = {'name': hostile, 'tokens a second': 12.3456}\n"
        "row |= {f'column {n}': n for n in range(12)}\n"
        "table([row], 'What was measured')\n"
        "quote(hostile)\n"
        "say(f'In words: $\\\\text{{{hostile}}}$ and {hostile}')\n"
        "source(quote)",
    ),
    (
        "code",
        "display(HTML(hostile))\n"
        "display(Javascript('window.hacked = 1'))\n"
        "print(hostile, 'x' * 300)\n"
        "print('\\r 50%|#####     | 5/10 [00:01<00:01, 5.0it/s]', file=sys.stderr)\n"
        "print('a warning', file=sys.stderr)",
    ),
    (
        "code",
        "_ = save_findings('00_good', [Finding(**record) for record in records])\n"
        "_ = save_samples('00_good', 'rounds', {'times': [0.1, 0.2]})\n"
        "_ = save_samples('00_good', 'a b#1', {'times': []})",
    ),
]
_BAD = [
    ("markdown", "# The bad one\n\nIt stops half-way."),
    ("code", "print('so far')"),
    ("code", "def ask() -> None:\n    raise ValueError('no <b>such</b> thing')\n\n\nask()"),
    ("code", "print('never reached')"),
]


def finding(**changes: Any) -> Finding:
    """A valid finding, with these of its fields changed; the fraction of the limit and the baseline
    follow from the others unless they are given."""
    told: dict[str, Any] = {
        "notebook": "00_good", "technique": "speed", "variant": "static cache",
        "baseline": "no cache", "phase": "decode", "metric": "decode_rate", "unit": "tok/s",
        "value": 31.0, "speedup": 3.1, "speedup_low": 2.9, "speedup_high": 3.3,
        "verdict": "faster", "p_value": 1e-6, "smallest_effect": 0.04, "limit": 50.0,
        "limit_low": 38.2, "of_bare_read": 0.86, "of_bare_read_low": 0.82,
        "of_bare_read_high": 0.9, "bare_note": "bare read of 538 MB", "bytes_read": 5.38e8,
        "weights": "float32", "quality": {"lossless": True, "tokens_compared": 64}, "samples": 12,
        "ratios": [3.0, 3.2], "hardware": {"name": "Some CPU", "threads": 2},
        "engine": {"name": "labkit", "version": "0.1.0"},
    } | changes  # fmt: skip
    times = told["unit"] == "s"
    if told["limit"] is not None:
        share = told["limit"] / told["value"] if times else told["value"] / told["limit"]
        told = {"fraction_of_limit": share} | told
    before = told["value"] * told["speedup"] if times else told["value"] / told["speedup"]
    return Finding(**{"baseline_value": before} | told)


def consistent(**changes: Any) -> Finding:
    """A finding whose speedup and interval follow from its ratios, as in a real run."""
    found = interval([3.1 * 1.05, 3.1 / 1.05] * 6)
    told = {"ratios": list(found.rounds), "speedup": found.value}
    return finding(**told | {"speedup_low": found.low, "speedup_high": found.high} | changes)


def several() -> list[Finding]:
    """Findings of every verdict, with and without a limit and a bare read, lossless or not."""
    unsure = {"speedup": 1.01, "speedup_low": 0.97, "speedup_high": 1.04, "verdict": "inconclusive"}
    slower = {"speedup": 0.8, "speedup_low": 0.7, "speedup_high": 0.9, "verdict": "slower"}
    none = {"limit": None, "limit_low": None, "limit_note": "none is defined for it"}
    alone = {"of_bare_read": None, "of_bare_read_low": None, "of_bare_read_high": None}
    products = {"of_bare_read": 0.4, "of_bare_read_low": 0.35, "of_bare_read_high": 0.45}
    return [
        finding(),
        finding(variant="sliding window", quality={"top1_agreement": 0.931, "kl_mean": 0.0123}),
        finding(
            phase="prefill", metric="ttft", unit="s", value=0.4, limit=0.1, limit_low=None,
            bare_note="int8 products alone (avx512vnni)", **unsure, **products,
        ),
        finding(
            variant=HOSTILE, phase="end_to_end", metric="e2e_latency", unit="s", value=1.5,
            bare_note=None, **none, **alone, **slower,
        ),
    ]  # fmt: skip


def _notebook(path: Path, cells: list[tuple[str, str]], hidden: str = "") -> None:
    made: Any = nbformat.v4.new_notebook()
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    for kind, source in cells:
        if kind == "markdown":
            made.cells.append(nbformat.v4.new_markdown_cell(source))
            continue
        cell: Any = nbformat.v4.new_code_cell(source)
        cell.metadata["tags"] = ["parameters"] if kind == "parameters" else []
        made.cells.append(cell)
    if hidden:
        made.cells.insert(3, nbformat.v4.new_code_cell(hidden))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(made, path)


def write_run(folder: Path, status: str, notebooks: list[dict[str, Any]], **more: Any) -> None:
    """run.json and environment.json of a run folder."""
    record = {
        "name": folder.name, "title": folder.name, "profile": "quick", "status": status,
        "started": "2026-11-24T11:08:00+00:00", "finished": None, "model": "smollm2-135m-instruct",
        "device": "cpu", "dtype": "float32", "parameters": {"rounds": 7}, "notebooks": notebooks,
        "machine": "Some CPU @ 2.0 GHz", "git_revision": "abc1234", "git_changed": False,
    } | more  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(record))
    stamp = {
        "device": "Some CPU @ 2.0 GHz", "memory_bytes": 8_000_000_000, "governor": None,
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
    }  # fmt: skip
    (folder / "environment.json").write_text(json.dumps(stamp))


def entry(name: str, status: str = "ok", error: str | None = None) -> dict[str, Any]:
    """A notebook's part of run.json."""
    title = f"The {name[3:]} one"
    return {"name": name, "title": title, "status": status, "seconds": 65.2, "error": error}


def write_findings(folder: Path, findings: Sequence[Finding]) -> None:
    """findings.json and findings.csv of a run folder."""
    (folder / "findings.json").write_text(to_json(findings), encoding="utf-8")
    (folder / "findings.csv").write_text(csv_text(findings), encoding="utf-8")


def executed_run(folder: Path) -> None:
    """A run of one good notebook and one that fails, executed by papermill, with its pages."""
    records = [asdict(found) for found in several()]
    given = f"hostile = {HOSTILE!r}\nrecords = {records!r}"
    _notebook(folder.parent / ".source" / "00_good.ipynb", _GOOD, given)
    _notebook(folder.parent / ".source" / "01_bad.ipynb", _BAD)
    folder.mkdir(parents=True)
    errors = {
        name: run_notebook(folder.parent / ".source" / f"{name}.ipynb", folder, parameters)
        for name, parameters in (("00_good", {"rounds": 7}), ("01_bad", {}))
    }
    entries = [entry(name, "failed" if error else "ok", error) for name, error in errors.items()]
    write_run(folder, "failed", entries)
    write_findings(folder, load_findings(folder / "findings" / "00_good.json"))
    for i, one in enumerate(entries):
        path = folder / "findings" / f"{one['name']}.json"
        render_notebook(
            folder / "notebooks" / f"{one['name']}.ipynb",
            folder / "reports" / f"{one['name']}.html",
            title=one["title"], run_name=folder.name, status=one["status"], error=one["error"],
            findings=load_findings(path) if path.exists() else [],
            neighbours=(None, "01_bad") if i == 0 else ("00_good", None),
            links=links.of_notebook(folder, one["name"]),
        )  # fmt: skip
    write_run_index(folder)


def outputs_with_runs(outputs: Path) -> Path:
    """An outputs folder: an executed run, one on another torch, an unfinished, a broken one, and
    one whose findings are of an older schema."""
    executed_run(outputs / "executed")
    other = outputs / "another & <b>run"
    write_run(other, "finished", [entry("00_good")], started="2026-11-25T09:00:00+00:00")
    asked = finding(variant="sliding window", workload={"prompt_tokens": 9})
    write_findings(other, [finding(value=40.0), finding(variant="paged cache"), asked])
    stamp = json.loads((other / "environment.json").read_text())
    stamp["versions"]["torch"] = "2.14.0"
    (other / "environment.json").write_text(json.dumps(stamp))
    write_run(outputs / "cut-off", "unfinished", [entry("00_good", "running")])
    write_run(
        outputs / "older", "finished", [entry("00_good")], started="2026-11-01T09:00:00+00:00"
    )
    (outputs / "older" / "findings.json").write_text("[]")
    for folder in (other, outputs / "cut-off", outputs / "older"):
        write_run_index(folder)
    (outputs / "broken").mkdir()
    (outputs / "broken" / "run.json").write_text('{"name": "bro')
    write_runs_index(outputs)
    return outputs
