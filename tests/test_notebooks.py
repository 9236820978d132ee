"""Every notebook runs to its end on a tiny model, and leaves the findings it is about."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from labkit.base.paths import project_root
from labkit.report.told.finding import load_findings
from labkit.studies import graph_rewriting_rungs as rungs
from labkit.workload.tasks import KINDS, OUTSIDE
from tests.tiny import save_tiny_model

NOTEBOOKS = sorted((project_root() / "notebooks").glob("[0-9]*.ipynb"))
EXECUTE = (sys.executable, "-m", "labkit.report.runs.execute")
TINY = {
    "00_speed_limit": {
        "rounds": 5,
        "prompt_tokens": 12,
        "new_tokens": 3,
        "check_tokens": 8,
        "memory_seconds": 0.5,
    },
    "01_timing": {"rounds": 5, "prompt_tokens": 12, "new_tokens": 4, "series": 60},
    "02_kv_cache": {
        "rounds": 5,
        "prompt_tokens": 12,
        "new_tokens": 3,
        "check_tokens": 6,
        "contexts": [8, 32],
        "curve_rounds": 5,
        "window": 8,
        "quality_tokens": 64,
    },
    "03_graph_rewriting": {
        "rounds": 5,
        "prompt_tokens": 12,
        "new_tokens": 3,
        "check_tokens": 6,
        "prefill_tokens": 16,
        "compiled": False,  # a minute on a clean machine; tests/studies/test_graph_rewriting.py
    },
    "04_quantization": {
        "rounds": 5,
        "prompt_tokens": 12,
        "new_tokens": 3,
        "check_tokens": 6,
        "group": 16,  # for which torch has no kernel: said, and judged all the same
        "engines": ["torch"],
        "methods": ["rtn", "hqq", "gptq"],
        "calibration_tokens": 64,
        "quality_tokens": 128,
        "other_tokens": 64,
        "piece_tokens": 32,
        "long_context": 32,
        "questions": 1,
    },
    "05_speculative": {
        "rounds": 5,
        "new_tokens": 12,
        "tasks_a_kind": 1,
        "calibration_tasks": 1,
        "outside_tasks": 1,
        "rows": [1, 2, 6],
        "context": 32,
        "row_rounds": 3,
        "length": 3,
    },
    "06_caching": {
        "rounds": 5,
        "new_tokens": 3,
        "prefixes": [16, 32],
        "own_tokens": 5,
        "workloads": ["chats", "repeated questions"],
        "load_rounds": 5,
        "requests": 4,
        "slots": 2,
        "zero_tokens": 32,
        "zero_rounds": 5,
        "near_questions": 2,
    },
    "07_batching": {
        "rounds": 5,
        "prompt_tokens": 12,
        "new_tokens": 6,
        "slots": 4,
        "requests": 6,
        "batches": [2, 4],
        "check_answers": 6,
        "median": 4,
        "long_prompt": 96,
        "loads": [0.8],
    },
    "15_the_limit": {
        "rounds": 5,
        "prompt_tokens": 12,
        "new_tokens": 4,
        "peers": False,
        "quality_tokens": 128,
        "row_counts": [1, 2],
    },
}
FINDS = {
    "00_speed_limit": {("plain decoder", "decode"), ("plain decoder", "prefill")},
    "01_timing": {("slowed by 10%", "decode"), ("plain decoder (again)", "decode")},
    "02_kv_cache": {
        ("growing cache", "decode"),
        ("static cache", "decode"),
        ("sliding window 8", "decode"),
    },
    "03_graph_rewriting": {
        *((name, "decode") for name in (*rungs.REWRITES, *rungs.STACK)),
        ("logits of the last row", "prefill"),
    },
    "04_quantization": {
        (name, phase)
        for name in ("8 bits, a scale a row", "8-bit KV cache")
        for phase in ("decode", "prefill")
    },
    "05_speculative": {
        (f"{kind.replace('_', ' ')}, automatic", "decode") for kind in (*KINDS, *OUTSIDE)
    },
    "06_caching": {
        *(
            (f"{count} shared tokens {where}", "prefill")
            for count in (16, 32)
            for where in ("in memory", "on disk, held by the system", "on disk")
        ),
        *(
            (name, "end_to_end")
            for name in (
                "chats, prefix cache",
                "repeated questions, prefix cache",
                "repeated questions, response cache",
                "no hits, prefix cache on",
                "no hits, prefix cache on, with a disk tier",
                "identical request, answered from the file",
            )
        ),
    },
    "07_batching": {
        ("2 requests", "decode"),
        ("4 requests", "decode"),
        ("engine, one request", "end_to_end"),
        ("engine, 4 in flight", "end_to_end"),
        ("in-flight batching", "end_to_end"),
        ("longest gap, long prompt in fixed chunks", "end_to_end"),
        ("longest gap, long prompt in chunks by measured cost", "end_to_end"),
    },
    "15_the_limit": {
        (name, phase)
        for name in ("transformers:bf16", "plain", "fused:q8_0")
        for phase in ("decode", "prefill")
    },
}


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def test_every_notebook_is_covered():
    assert [path.stem for path in NOTEBOOKS] == sorted(TINY) == sorted(FINDS)


@pytest.mark.notebook
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_leaves_its_findings(path, tiny_model, tmp_path):
    values = {"model": str(tiny_model), "device": "cpu"} | TINY[path.stem]
    done = subprocess.run(
        [*EXECUTE, path, tmp_path / "out.ipynb", json.dumps(values)],
        env=os.environ | {"LABKIT_RUN_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,  # 25 s where nothing else runs
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert str(project_root()) not in (tmp_path / "out.ipynb").read_text(encoding="utf-8")
    findings = load_findings(tmp_path / "findings" / f"{path.stem}.json")
    assert {(finding.variant, finding.phase) for finding in findings} == FINDS[path.stem]
    for finding in findings:
        assert finding.notebook == path.stem
        assert finding.samples == 5
        assert finding.model["name"] == tiny_model.name
        assert "lossless" in finding.quality
    assert list((tmp_path / "traces" / path.stem).glob("*.json"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_keeps_the_contract(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    text = "\n".join(cell.source for cell in notebook.cells)
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert "class " not in "\n".join(cell.source for cell in code)
    wanted = ["device: str", "source(", "ame answer?", "Prediction", "study.measure(",
              "gap remains", "study.findings("]  # fmt: skip
    places = [text.find(word) for word in wanted]
    assert -1 not in places
    if path.stem != "01_timing":  # which first takes the usual way apart
        assert places == sorted(places)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_the_fields_of_the_study(path):
    """Names, types and defaults of the parameters cell, in the same order; all are handed on."""
    notebook = nbformat.read(path, as_version=4)
    (parameters,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    (setup,) = (c for c in notebook.cells if "setup" in c.metadata.get("tags", []))
    declared: dict[str, object] = {}
    exec(compile(parameters.source, path.stem, "exec"), declared)
    study = importlib.import_module(f"labkit.studies.{path.stem[3:]}").Study
    fields = {
        f.name: f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        for f in dataclasses.fields(study)
    }
    kinds = declared.pop("__annotations__")
    del declared["__builtins__"]
    assert declared == fields
    assert list(declared) == list(fields)
    assert kinds == {f.name: f.type for f in dataclasses.fields(study)}
    for name in fields:
        assert f"{name}={name}," in setup.source


def test_functions_in_notebooks_are_short():
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type != "code":
                continue
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.FunctionDef):
                    assert len(node.body) <= 5, f"{path.stem}: {node.name}"
                    lines = node.end_lineno - node.lineno
                    assert lines <= 7, f"{path.stem}: {node.name} has {lines} lines"
