"""`labkit bench` on a tiny model: the table, the samples, what each is held against, refusals."""

import errno
import json
import os

import pytest
from click.testing import CliRunner

from labkit.base import places
from labkit.bench import run as bench
from labkit.bench.client import Loaded
from labkit.bench.run import Measured, held_comparison
from labkit.cli import main
from labkit.errors import ImpossibleRate, LabkitError
from labkit.limits.cost import Cost
from labkit.limits.hardware import Hardware, Reading
from labkit.limits.work import BareProducts
from labkit.timing.compare import again
from labkit.timing.trace import Trace
from tests.tiny import save_tiny_model

ASKED = [
    "bench",
    "--variants",
    "transformers,plain",
    "--prompt-tokens",
    "12",
    "--new-tokens",
    "4",
    "--rounds",
    "5",
]
# Reads 1e9 bytes/s and multiplies 1e9 float32 a second.
SLOW = Hardware(
    "a machine", "cpu", 1,
    {1: Reading(1e9, 1e9, 0.0, 0.5e9)}, {"float32": Reading(1e9, 1e9, 0.0, 0.5e9)},
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("model")))


def reading(nbytes):
    return Cost(nbytes, 0.0, 0.0, 0.0, 1.0, 0.0)


def steady(step):
    """A variant that takes `step` seconds a token, by its own timestamps."""
    return lambda _: Trace(0.0, (step, 2 * step, 3 * step), 8, (1, 2, 3))


def test_a_table_with_a_row_a_variant_the_control_and_the_bare_read(model, tmp_path):
    target = tmp_path / "bench.json"
    done = CliRunner().invoke(main, [*ASKED, "--model", model, "--json", str(target)])
    assert done.exit_code == 0, done.output
    text = done.stdout
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["variant", "decode"]
    assert [line.split("  ")[0] for line in lines[1:5]] == [
        "transformers",
        "plain",
        "transformers (again)",
        "bare read of 13 MB",
    ]
    stored = json.loads(target.read_text())
    rounds = stored["comparison"]["rounds"]
    assert len(rounds["plain"]) == 5
    assert [t["tokens"] for t in rounds["plain"]] == [t["tokens"] for t in rounds["transformers"]]
    read = {c["variant"]: c["weight_bytes"] for c in stored["costs"] if c["metric"] == "tpot"}
    assert read["plain"] == read["transformers"] > 12e6
    assert stored["variants"]["plain"]["weights"] == "float32"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"variants": "plian"}, "no variant 'plian'(.|\\n)*plain"),
        ({"variants": ""}, "no variant named"),
        ({"variants": "plain,plain"}, "named twice"),
        ({"variants": "bare-read"}, "no variant 'bare-read'"),
        ({"rounds": 2}, "too few"),
        ({"rounds": 10**9}, "too many"),
        ({"threads": 0}, "at least 1"),
        ({"threads": 10**6}, "at most"),
        ({"prompt_tokens": 511}, "context"),
        ({"new_tokens": 1}, "from 2 tokens on"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_timed(changes, words, model):
    asked = {"variants": "plain", "prompt_tokens": 8, "new_tokens": 4, "rounds": 5, "model": model}
    with pytest.raises(LabkitError, match=words):
        bench.run(**asked | changes)


def test_variants_of_the_same_bytes_are_held_against_one_read_and_one_limit():
    runs = {"a": steady(0.1), "b": steady(0.2), "c": steady(0.1)}
    costs = {
        (name, "tpot"): reading(nbytes) for name, nbytes in zip(runs, (2e7, 2e7, 4e7), strict=True)
    }
    result = held_comparison(runs, costs, 5, SLOW)
    assert result.bare["a", "tpot"] == result.bare["b", "tpot"]
    assert result.bare["c", "tpot"].name == "bare read of 40 MB"
    assert result.share("b").value == pytest.approx(result.share("a").value / 2)
    found = Measured(result, costs, {})
    rows = {name: bench._row(found, name, "–", SLOW) for name in (*runs, again("a"))}
    assert {rows[name]["of its limit"] for name in ("a", again("a"))} == {"20%"}  # 20 of 100 ms
    assert (rows["b"]["of its limit"], rows["c"]["of its limit"]) == ("10%", "40%")
    assert rows["a"]["reads MB"] == "20"


def test_a_limit_that_was_beaten_is_a_dash():
    costs = {("a", "tpot"): reading(2e8)}  # 0.2 s by the machine as measured; it took 0.1 s
    result = held_comparison({"a": steady(0.1)}, costs, 5, SLOW)
    assert bench._row(Measured(result, costs, {}), "a", "–", SLOW)["of its limit"] == "–"


def test_a_prompt_whose_arithmetic_sets_its_limit_is_held_against_products(monkeypatch):
    asked = []

    def small(dtype, *_):
        asked.append(dtype)
        return BareProducts(dtype, 32)

    monkeypatch.setattr(bench, "fastest_products", small)
    heavy = Cost(1e6, 0.0, 0.0, 0.0, 1e8, 0.0)
    costs = {("a", "ttft"): heavy, ("b", "ttft"): heavy, ("b", "tpot"): reading(1e6)}
    result = held_comparison({"a": steady(0.2), "b": steady(0.2)}, costs, 5, SLOW)
    assert asked == ["float32"]  # once for both
    assert result.bare["a", "ttft"] == result.bare["b", "ttft"]
    assert result.bare["a", "ttft"].name == "float32 products alone"
    assert result.bare["b", "tpot"].name == "bare read of 1 MB"


def test_a_pass_that_no_machine_can_make_stops_the_comparison():
    with pytest.raises(ImpossibleRate):
        held_comparison({"a": steady(1e-9)}, {("a", "tpot"): reading(2e7)}, 5, SLOW)


def test_notes_and_failures_stand_below_the_table(monkeypatch, model):
    one = Loaded(0.0, 0.0, 0.0, None, 2.0, "1", "", "", "its own", False, "reads batches of 31")
    result = held_comparison({"plain": steady(0.1)}, {}, 5, SLOW)
    result.failed["transformers"] = "it ended"
    monkeypatch.setattr(bench, "measure", lambda *_: Measured(result, {}, {"plain": one}))
    monkeypatch.setattr(bench, "measure_hardware", lambda *_: SLOW)
    table, *below = bench.run("transformers,plain", 8, 4, 5, model).text.split("\nplain: ")
    assert below == ["reads batches of 31\ntransformers: FAILED: it ended"]
    assert "plain (again)" in table


@pytest.fixture
def measured(monkeypatch):
    """A comparison that takes no time; its names are asked for."""
    asked = []
    result = held_comparison({"plain": steady(0.1)}, {}, 5, SLOW)

    def measure(*given):
        asked.append(given[0])
        return Measured(result, {}, {})

    monkeypatch.setattr(bench, "measure", measure)
    monkeypatch.setattr(bench, "measure_hardware", lambda *_: SLOW)
    return asked


@pytest.mark.parametrize("where", ["folder", "file/below", "device", "long"])
def test_a_place_that_cannot_be_written_is_told_before_anything_is_timed(
    where, measured, model, tmp_path
):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    target = {"device": "/dev/full", "long": tmp_path / ("x" * 300)}.get(where, tmp_path / where)
    done = CliRunner().invoke(main, [*ASKED, "--model", model, "--json", str(target)])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")
    assert "cannot be written" in done.stderr
    assert (done.stdout, measured) == ("", [])


def test_what_was_measured_is_printed_even_where_it_cannot_be_written(
    measured, model, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(places, "atomic_write", full)
    target = tmp_path / "bench.json"
    done = CliRunner().invoke(main, [*ASKED, "--model", model, "--json", str(target)])
    assert done.exit_code == 2
    assert "plain (again)" in done.stdout
    assert "No space left on device): the table above is all that is kept" in done.stderr
    assert not target.exists()
