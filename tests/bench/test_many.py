"""Engines at several numbers of streams: on a tiny model, and over waves that take no time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from labkit.bench import client
from labkit.bench import many as command
from labkit.bench.answers import Answers
from labkit.bench.asked import Asked
from labkit.bench.client import Loaded
from labkit.bench.many import measure
from labkit.bench.many_told import text
from labkit.bench.points import DECODE, Many, point
from labkit.bench.wave import Wave
from labkit.errors import ImpossibleRate, LabkitError, ModelError, ParameterError
from labkit.model.config import read_config
from labkit.timing.compare import Comparison, again
from labkit.timing.trace import Trace
from tests.tiny import CONFIG, save_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("model")))


def test_engines_of_a_tiny_model_at_each_number_of_streams(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABKIT_PEERS", str(tmp_path))  # none is installed there
    asked = Asked(8, 4, (1, 3), 5, answers=2)
    found = measure(["fused:q8_0", "plain", "mnn:int4"], client.locate(model), asked, 1)
    assert found.engines == ("fused:q8_0", "plain")
    assert set(found.failed) == {"mnn:int4"}
    assert set(found.comparison.traces) == {
        *(point(name, n) for name in found.engines for n in asked.streams),
        again("fused:q8_0 at 1"), again("fused:q8_0 at 3"),
    }  # fmt: skip
    for streams in asked.streams:
        for traces in found.at(streams).traces.values():
            assert [len(one.each) for one in traces] == [streams] * 5
            assert {len(one.tokens) for trace in traces for one in trace.each} == {4}
    first, second = (wave.each for wave in found.comparison.traces["fused:q8_0 at 3"][:2])
    assert len({one.tokens for one in (*first, *second)}) > 1  # prompts differ, and change
    assert found.rate("fused:q8_0", 3).low <= found.rate("fused:q8_0", 3).value
    assert found.answers["fused:q8_0"].distinct == [1, 1]  # each row has the same bits in any pass
    told = text(found)
    assert "mnn:int4: FAILED: " in told
    assert "plain: float32; " in told


def waves(streams: int, seconds: float, rounds: int = 5, tokens: int = 4) -> list[Wave]:
    """Waves in step, one pass every `seconds`, the prompts in the first."""
    times = tuple(seconds * (n + 1) for n in range(tokens))
    return [Wave.of([Trace(0.0, times, 8, (0,) * tokens)] * streams)] * rounds


def of(passes: Mapping[tuple[str, int], float], streams: tuple[int, ...], **more: Any) -> Many:
    """What would be measured, from the seconds of a pass of each engine."""
    engines = tuple(dict.fromkeys(engine for engine, _ in passes))
    traces = {point(*one): waves(one[1], taken) for one, taken in passes.items()}
    traces |= {again(point(engines[0], n)): traces[point(engines[0], n)] for n in streams}
    whole = Comparison(point(engines[0], streams[0]), traces, {}, failed=more.pop("failed", {}))
    return Many(Asked(8, 4, streams), engines, whole, **more)


MEASURED = {
    ("ours", 1): 0.1, ("ours", 16): 0.4, ("theirs", 1): 0.2, ("theirs", 16): 4.0,
}  # fmt: skip


def test_rates_and_ratios_are_of_tokens_of_all_streams() -> None:
    found = of(MEASURED, (1, 16))
    assert found.rate("ours", 1).value == pytest.approx(10)
    assert found.rate("ours", 16).value == pytest.approx(40)
    assert found.rate("ours", 16, DECODE).value == pytest.approx(40)
    assert found.over(("ours", 16), ("theirs", 16)).value == pytest.approx(10)
    assert found.over(("ours", 16), ("ours", 1)).value == pytest.approx(4)
    assert found.over(("ours", 16), ("theirs", 1), DECODE).value == pytest.approx(8)
    assert (found.best("ours"), found.best("theirs")) == (16, 1)
    assert found.control(16).value == pytest.approx(1)
    assert found.trusted(16)
    assert found.verdicts() == {("theirs", 1): "slower", ("theirs", 16): "slower"}


def test_the_tables_say_all_of_it() -> None:
    loaded = Loaded(0.0, 0.0, 0.0, None, 2.0, "0.7", "", "", "Q4_1", True, "batches of 31.")
    answers = Answers(((1, 2),), (((1, 2), (1, 3)),))
    found = of(
        MEASURED, (1, 16), loaded={"theirs": loaded}, answers={"theirs": answers},
        failed={"third": "it ended"},
    )  # fmt: skip
    lines = [line.split() for line in text(found).splitlines()]
    assert ["16", "40", "[40,", "40]", "4", "[4,", "4]"] in lines
    assert ["16", "4.00x", "[4.00,", "4.00]", "0.80x", "[0.80,", "0.80]"] in lines
    assert ["16", "1.00x", "[1.00,", "1.00]", "10.0x", "[10.0,", "10.0]"] in lines
    assert ["theirs", "1", "5", "[5,", "5]", "8.00x", "[8.00,", "8.00]"] in lines
    assert ["theirs:", "Q4_1;", "0.7.", "batches", "of", "31."] in lines
    assert ["theirs", "1", "2", "2.00", "0", "of", "1", "1", "of", "2", "token", "2"] in lines
    assert "third: FAILED: it ended" in text(found)


def test_what_failed_or_has_no_rate_is_a_dash() -> None:
    missing = {one: taken for one, taken in MEASURED.items() if one != ("theirs", 16)}
    found = of(missing, (1, 16))
    assert found.rate("theirs", 16) is None
    assert found.over(("ours", 16), ("theirs", 16)) is None
    assert found.best("theirs") == 1
    assert found.verdicts() == {("theirs", 1): "slower"}
    found.comparison.traces.pop(again("ours at 16"))
    assert found.at(16) is None
    assert not found.trusted(16)
    assert "The A/A control failed at 16 streams" in text(found)


def test_a_control_that_differs_makes_verdicts_inconclusive() -> None:
    found = of(MEASURED, (1, 16))
    found.comparison.traces[again("ours at 16")] = waves(16, 0.6)
    assert not found.trusted(16)
    assert found.trusted(1)
    assert found.verdicts() == {("theirs", 1): "slower", ("theirs", 16): "inconclusive"}
    assert "do not trust this row" in text(found)


def test_passes_that_no_machine_can_make_are_refused(model: str) -> None:
    source = client.locate(model)
    loaded = Loaded(0.0, 0.0, 0.0, 10**9, 2.0, "1", "", "", "float32", True)
    found = of({("plain", 4): 1e-6}, (4,), loaded={"plain": loaded})
    with pytest.raises(ImpossibleRate):
        command._check_possible(found, read_config(source.described), source)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"variants": "plian"}, "no variant 'plian'"),
        ({"streams": "0,1"}, "streams 0, 1: allowed are 1 to 256"),
        ({"streams": "512"}, "allowed are 1 to 256"),
        ({"streams": ""}, "streams none: allowed"),
        ({"streams": "2,2"}, "name each number once"),
        ({"streams": "two"}, "give whole numbers with commas"),
        ({"streams": "-1"}, "give whole numbers with commas"),
        ({"rounds": 2}, "at least 5 rounds"),
        ({"answers": -1}, "answers from 0 on"),
        ({"answers": 1, "streams": "1"}, "a number of streams above 1"),
        ({"prompt_tokens": 511}, "context"),
        ({"new_tokens": 1}, "from 2 tokens on"),
        ({"threads": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_runs(
    changes: dict[str, Any], words: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "start", lambda *_: pytest.fail("an engine was started"))
    asked: dict[str, Any] = {"variants": "plain", "streams": "1,2", "model": model}
    with pytest.raises((ParameterError, ModelError), match=words):
        command.run(**asked | {"prompt_tokens": 8, "new_tokens": 4} | changes)


def test_sequences_that_memory_cannot_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    each = 64 * (256 + 16) * CONFIG.kv_bytes_per_token(2.0)
    free = type("Memory", (), {"available": 3 * each})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    Asked(streams=(1, 64)).check_memory(CONFIG, 3)
    with pytest.raises(ParameterError, match="64 sequences of 272 tokens take .* each of 4 eng"):
        Asked(streams=(1, 64)).check_memory(CONFIG, 4)


def test_every_sequence_has_room_for_the_sample_and_for_its_answer() -> None:
    assert (Asked(128, 128).sample, Asked(128, 128).context) == (128, 272)
    assert (Asked(8, 4).sample, Asked(8, 4).context) == (64, 82)
    assert Asked(8, 4, (200,)).sample == 200  # as many rows as a pass of all streams


def test_without_any_engine_the_reasons_are_told(model: str) -> None:
    with pytest.raises(LabkitError, match=r"llama.cpp: .*(GGUF|not installed)"):
        measure(["llama.cpp"], client.locate(model), Asked(8, 4, (1,)), 1)


def test_the_command_prints_the_tables_and_keeps_the_samples(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "measure", lambda *_: of(MEASURED, (1, 16)))
    target = tmp_path / "many.json"
    done = CliRunner().invoke(command.main, ["--model", model, "--json", str(target)])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("Output tokens/s of all streams together: prompts of 8 tokens")
    stored = json.loads(target.read_text())
    assert len(stored["comparison"]["rounds"]["ours at 16"][0]["each"]) == 16
    assert stored["asked"]["streams"] == [1, 16]


def test_a_wrong_request_is_one_line(model: str) -> None:
    done = CliRunner().invoke(command.main, ["--streams", "0", "--model", model])
    assert done.exit_code == 2
    assert done.stderr == "error: streams 0: allowed are 1 to 256.\n"
