"""What a notebook reaches: a change of it changes the key, a change of anything else does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit.base.paths import project_root
from labkit.report.runs.notebooks import Notebook, discover
from labkit.report.runs.reach import everything, mentions, module_files, reached
from labkit.report.runs.state import files_of, resume_key

LABKIT = project_root() / "labkit"
NOTEBOOKS = discover(project_root() / "notebooks")

TREE = {
    "__init__.py": "",
    "errors.py": "",
    "low/__init__.py": "",
    "low/numbers.py": "from lab import errors\n",
    "low/table.yaml": "a: 1\n",
    "low/texts/one.txt": "one\n",
    "mid/__init__.py": "from lab.mid.inner import thing\n",
    "mid/inner.py": "def thing():\n    import lab.low.numbers\n",
    "mid/typed.py": "if TYPE_CHECKING:\n    import lab.mid.kinds\n",
    "mid/kinds.py": "Kind = int\n",
    "starts/__init__.py": "",
    "starts/client.py": (
        "from pathlib import Path\n"
        "WORKER = Path(__file__).with_name('worker.py')\n"
        "DRIVERS = Path(__file__).with_name('drivers')\n"
        "COMMAND = ['-m', 'lab.tool.main']\n"
    ),
    "starts/worker.py": "import lab.errors\n",
    "starts/drivers/__init__.py": "",
    "starts/drivers/one.py": "import lab.mid.kinds\n",
    "starts/other.py": "x = 'worker'\n",
    "tool/main.py": "'''Not worker.py, nor lab.top.page.'''\n",
    "top/__init__.py": "",
    "top/page.py": "import lab.mid\n",
    "top/page.html": "<p>\n",
    "top/__pycache__/page.pyc": "",
}


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """A small package named lab."""
    return written(tmp_path / "lab", TREE)


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def names(files: frozenset[Path] | set[Path], folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in files}


LOW = {"__init__.py", "errors.py", "low/__init__.py", "low/numbers.py", "low/table.yaml"}
LOW |= {"low/texts/one.txt"}
MID = {"mid/__init__.py", "mid/inner.py"}
STARTS = {"starts/__init__.py", "starts/client.py", "starts/worker.py", "tool/main.py"}
STARTS |= {"starts/drivers/__init__.py", "starts/drivers/one.py"}
TOP = {"top/__init__.py", "top/page.py", "top/page.html"}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import numpy", set()),
        ("import lab", {"__init__.py"}),
        ("from lab import errors", {"__init__.py", "errors.py"}),
        ("from lab.errors import SomeError as E", {"__init__.py", "errors.py"}),
        ("import lab.low.numbers as n", LOW),
        ("from lab.low import numbers", LOW),
        ("from lab.low.numbers import one, two", LOW),
        ("def f():\n    from lab.low.numbers import one", LOW),
        ("from lab.mid import thing", LOW | MID),  # through its __init__, within a function
        ("import lab.mid.typed", LOW | MID | {"mid/typed.py", "mid/kinds.py"}),
        ("import lab.starts.client", LOW | MID | STARTS | {"mid/kinds.py"}),
        ("from lab.starts import other", {"__init__.py", "starts/__init__.py", "starts/other.py"}),
        ("import_module('lab.top.page')", LOW | MID | TOP),
        ("x = 'lab.top.page is a page'", set()),
        ("import labels.low", set()),
    ],
)
def test_what_code_reaches(lab: Path, code: str, expected: set[str]) -> None:
    assert names(reached(code, lab), lab) == expected


def test_code_that_cannot_be_parsed_may_reach_everything(lab: Path) -> None:
    assert reached("%run something\nimport lab.errors", lab) == everything(lab)
    assert "top/__pycache__/page.pyc" not in names(everything(lab), lab)


def test_a_broken_module_is_reached_and_leads_nowhere(lab: Path) -> None:
    (lab / "low" / "numbers.py").write_text("import lab.mid (\n")
    assert names(reached("import lab.low.numbers", lab), lab) == LOW - {"errors.py"}


def test_mentions_are_names_and_strings() -> None:
    found = mentions("import a.b\nfrom c import d as e\nx = 'worker.py'")
    assert found.imports == {"a.b", "c.d"}
    assert "worker.py" in found.strings


STYLES = (
    "import lab.m{n}\n",
    "from lab import m{n}\n",
    "from lab.m{n} import x\n",
    "def f():\n    from lab.m{n} import x\n",
    "if TYPE_CHECKING:\n    import lab.m{n}\n",
    "x = Path(__file__).with_name('m{n}.py')\n",
    "x = ['-m', 'lab.m{n}']\n",
)


@given(
    edges=st.sets(
        st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(0, len(STYLES) - 1)),
        max_size=16,
    ),
    start=st.integers(0, 7),
)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_closure_is_what_a_walk_along_the_imports_finds(
    tmp_path_factory: pytest.TempPathFactory, edges: set[tuple[int, int, int]], start: int
) -> None:
    sources = dict.fromkeys(range(8), "")
    for source, target, style in sorted(edges):
        sources[source] += STYLES[style].format(n=target)
    files = {"__init__.py": ""} | {f"m{n}.py": text for n, text in sources.items()}
    folder = written(tmp_path_factory.mktemp("walk") / "lab", files)
    seen, waiting = set(), [start]
    while waiting:
        seen.add(at := waiting.pop())
        waiting += [target for source, target, _ in edges if source == at and target not in seen]
    expected = {"__init__.py", *(f"m{n}.py" for n in seen)}
    assert names(reached(f"import lab.m{start}", folder), folder) == expected


def key(lab: Path, notebook: Notebook, **identity: Any) -> str:
    return resume_key(notebook, {"rounds": 3}, {"model": "tiny"} | identity, lab)


def notebook_of(folder: Path, *code: str) -> Notebook:
    cells = [nbformat.v4.new_code_cell(text) for text in code]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "00_x.ipynb")
    return Notebook(folder / "00_x.ipynb", "x", {})


@pytest.mark.parametrize("changed", sorted(set(TREE) - {"top/__pycache__/page.pyc"}))
def test_the_key_changes_with_what_is_reached_and_with_nothing_else(
    lab: Path, tmp_path: Path, changed: str
) -> None:
    notebook = notebook_of(tmp_path, "import lab.mid.typed", "x = 1")
    before, within = key(lab, notebook), lab / changed in files_of(_cells(notebook), lab)
    (lab / changed).write_text(TREE[changed] + "# another line\n")
    assert (key(lab, notebook) != before) == within


def test_the_key_changes_with_a_new_file_that_is_reached(lab: Path, tmp_path: Path) -> None:
    notebook = notebook_of(tmp_path, "from lab.low import numbers")
    before = key(lab, notebook)
    (lab / "top" / "new.py").write_text("")
    assert key(lab, notebook) == before
    (lab / "low" / "texts" / "two.txt").write_text("two")
    assert key(lab, notebook) != before


def test_the_key_is_of_cells_parameters_model_and_machine(lab: Path, tmp_path: Path) -> None:
    notebook = notebook_of(tmp_path, "import lab")
    before = key(lab, notebook)
    assert key(lab, notebook, environment={"when": "later"}) == before
    assert key(lab, notebook, model="other") != before
    assert resume_key(notebook, {"rounds": 4}, {"model": "tiny"}, lab) != before
    assert key(lab, notebook_of(tmp_path, "import lab", "1")) != before


def _cells(notebook: Notebook) -> list[Any]:
    return list(nbformat.read(notebook.path, as_version=4).cells)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.name)
def test_what_our_notebooks_reach(notebook: Notebook) -> None:
    """What shows and saves results is always reached; what runs notebooks never is."""
    found = names(files_of(_cells(notebook), LABKIT), LABKIT)
    for name in ("finding", "notebook", "plots", "words", "compared"):
        assert f"report/told/{name}.py" in found
    assert {"__init__.py", "errors.py", "base/units.py", "workload/prose.txt"} <= found
    assert not {name for name in found if name.startswith(("report/runs/", "report/pages/"))}
    kernel = {name for name in found if name.startswith("optimize/fused/kernel/")}
    assert bool(kernel) == ("optimize/fused/native.py" in found)
    if "bench/client.py" in found:
        assert {"bench/worker.py", "bench/drivers/ours.py", "bench/drivers/llama.py"} <= found
        assert kernel


def test_our_notebooks_do_not_all_reach_the_same() -> None:
    """A change of the fused kernel concerns some of them only."""
    native = LABKIT / "optimize" / "fused" / "native.py"
    reach_it = {n.name for n in NOTEBOOKS if native in files_of(_cells(n), LABKIT)}
    assert {"05_speculative", "15_the_limit"} <= reach_it
    assert not {"00_speed_limit", "01_timing", "02_kv_cache"} & reach_it


def test_what_a_dotted_name_leads_to(lab: Path) -> None:
    assert names(module_files(lab, "lab.mid.inner.thing"), lab) == {"__init__.py", *MID}
    assert names(module_files(lab, "lab.mid.none"), lab) == {"__init__.py", "mid/__init__.py"}
    assert module_files(lab, "other.mid") == set()


def test_every_module_of_labkit_can_be_read() -> None:
    for path in LABKIT.rglob("*.py"):
        mentions(path.read_text(encoding="utf-8"))
