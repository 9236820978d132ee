"""`labkit.compare`: the table, the picture, what is refused; a real one on a tiny model."""

from __future__ import annotations

import re
from typing import Any

import pytest

from labkit.bench import beside
from labkit.bench.beside import Beside, compare
from labkit.bench.client import Loaded
from labkit.bench.run import Measured, Outcome, held_comparison
from labkit.errors import LabkitError
from labkit.limits.cost import Cost
from labkit.limits.hardware import Hardware, Reading
from labkit.timing.trace import Trace
from tests.tiny import save_tiny_model

SLOW = Hardware(
    "a machine", "cpu", 1,
    {1: Reading(1e9, 1e9, 0.0, 0.5e9)}, {"float32": Reading(1e9, 1e9, 0.0, 0.5e9)},
)  # fmt: skip


def steady(step: float, tokens: tuple[int, ...]) -> Any:
    return lambda _: Trace(0.0, (step, 2 * step, 3 * step), 8, tokens)


@pytest.fixture(scope="module")
def found() -> Beside:
    """fused takes 0.1 s a token, llama.cpp 0.2 s; both read 20 MB."""
    runs = {"fused": steady(0.1, (1, 2, 3)), "llama.cpp": steady(0.2, (1, 2, 4))}
    costs = {(name, "tpot"): Cost(2e7, 0.0, 0.0, 0.0, 1.0, 0.0) for name in runs}
    one = Loaded(0.0, 0.0, 0.0, None, 2.0, "1", "", "", "its own", False, "<reads> batches")
    measured = Measured(held_comparison(runs, costs, 5, SLOW), costs, {"llama.cpp": one})
    return Beside(Outcome(measured, SLOW))


def test_the_table_says_how_much_of_the_answers_agrees(found: Beside) -> None:
    rows = {row["variant"]: row for row in found.rows}
    assert rows["fused"]["decode tok/s"] == "10.0"
    assert rows["llama.cpp"]["speedup"].startswith("0.50x")
    told = {name: row["same tokens"] for name, row in rows.items()}
    assert told == {
        "fused": "–", "llama.cpp": "the first 2 of 3", "fused (again)": "all 3",
        "bare read of 20 MB": "–",
    }  # fmt: skip


def test_points_are_rates_with_intervals_and_limits(found: Beside) -> None:
    first, second = found.points
    assert (first.name, first.rate, first.limit) == ("fused", *map(pytest.approx, (10, 50)))
    assert (second.rate, second.low, second.high) == pytest.approx((5, 5, 5))
    assert (first.peer, second.peer) == (False, True)
    assert found.alt == (
        "Decode rates. fused 10 tok/s [10, 10], limit 50; llama.cpp 5 tok/s [5, 5], limit 50."
    )


def test_a_notebook_shows_table_picture_and_remarks(found: Beside) -> None:
    markup = found._repr_html_()
    assert markup.count("<table") == markup.count("<svg") == 1
    assert "tokens a second" in markup
    for words in ("another engine", "its limit", "ours"):
        assert f">{words}<" in markup
    assert "llama.cpp: &lt;reads&gt; batches" in markup
    assert "<reads>" not in markup
    assert re.search(r'aria-label="Decode rates\.', markup)


def test_a_script_prints_the_table(found: Beside, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(found) == repr(found)
    assert "same tokens" in str(found).splitlines()[0]
    assert str(found).splitlines()[-1] == "llama.cpp: <reads> batches"
    found.show()
    out = capsys.readouterr().out
    assert "[figure] Decode rates." in out
    assert "the first 2 of 3" in out


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"variants": "fused"}, "a list of names"),
        ({"variants": ["fussed"]}, "Did you mean fused"),
        ({"variants": []}, "no variant named"),
        ({"rounds": 4}, "at least 5"),
        ({"threads": 0}, "at least 1"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"max_tokens": 1}, "from 2 tokens on"),
        ({"max_tokens": 512}, "context"),
        ({"model": "no-such"}, "no model"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_runs(
    given: dict[str, Any], words: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "measure_hardware", None)
    asked = {"variants": ["plain"], "prompt": "hello", "model": model} | given
    with pytest.raises(LabkitError, match=words):
        compare(asked.pop("variants"), **asked)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("model")))


def test_variants_answer_one_prompt_and_those_that_cannot_are_named(model: str) -> None:
    said: list[str] = []
    names = ["plain", "fused:q8_0", "fused"]  # the last one needs a GGUF file
    found = compare(names, "hello there", max_tokens=4, rounds=5, model=model, tell=said.append)
    rows = {str(row["variant"]): row for row in found.rows}
    assert {"plain", "fused:q8_0", "plain (again)"} <= set(rows)
    assert rows["plain (again)"]["same tokens"] == "all 4"
    assert "fused: FAILED" in str(found)
    traces = found.outcome.measured.comparison.traces["plain"]
    assert len({trace.tokens for trace in traces}) == 1  # one prompt, one answer
