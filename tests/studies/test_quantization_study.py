"""The study of notebook 04 as a whole on a tiny model, and its forecasts on made-up traces."""

from __future__ import annotations

import json

import nbformat
import pytest

from labkit.base.paths import project_root
from labkit.model.weights import read_bytes
from labkit.report.told.compared import Least
from labkit.report.told.words import times
from labkit.studies import quantization, quantization_measured
from labkit.studies import quantization_sentences as sentences
from labkit.studies.quantization_forecast import Forecast, Held, forecasts, held, sentence
from labkit.studies.quantization_variants import CACHE, EIGHT, PLAIN
from labkit.timing.compare import Bare, Comparison, again
from labkit.timing.statistics import interval
from labkit.timing.trace import Trace
from tests.tiny import save_tiny_model

READ, OTHER_READ = "bare read of 4 MB", "bare read of 1 MB"


def traces(seconds: float) -> list[Trace]:
    """Five rounds; a little apart, so that intervals have a width."""
    times = [seconds * (1 + 0.001 * k) for k in (-2, -1, 0, 1, 2)]
    return [Trace(0.0, (0.1, 0.1 + time)) for time in times]


def compared(plain: float, variant: float, own_read: float = 0.004) -> Comparison:
    """Seconds of a token of both, of the plain decoder's bare read, and 1 ms for the variant's."""
    taken = {PLAIN: plain, again(PLAIN): plain, "v": variant, READ: own_read, OTHER_READ: 0.001}
    bare = {(PLAIN, "tpot"): Bare(READ, 1.0), ("v", "tpot"): Bare(OTHER_READ, 1.0)}
    return Comparison(PLAIN, {name: traces(time) for name, time in taken.items()}, {}, bare)


def test_a_variant_that_replaces_products_needs_its_bytes_and_the_plain_decoders_rest():
    for own in (0.005, 0.050):  # its own earlier time does not enter
        _, told = forecasts(compared(0.010, own), ["v"])
        assert told == ("v", pytest.approx(0.001 / (0.001 + 0.010 - 0.004)), sentences.PLAIN_REST)


def test_any_other_variant_reaches_its_own_earlier_share():
    plain, told = forecasts(compared(0.010, 0.002), [])
    assert told == ("v", pytest.approx(0.5), sentences.OWN_SHARE)
    assert plain == (PLAIN, pytest.approx(0.4), sentences.OWN_SHARE)


def test_a_rest_that_is_not_measurable_forecasts_nothing():
    _, told = forecasts(compared(0.010, 0.002, own_read=0.010), ["v"])
    assert told.source == sentences.OWN_SHARE


@pytest.mark.parametrize(
    ("share", "measured", "inside", "holds"),
    [
        (0.50, [0.45, 0.50, 0.56], True, True),
        (0.56, [0.49, 0.50, 0.51], False, True),
        (0.60, [0.49, 0.50, 0.51], False, False),
        (0.41, [0.49, 0.50, 0.51], False, False),
        (0.70, [0.30, 0.50, 0.80], True, True),
    ],
)
def test_when_a_forecast_holds(share, measured, inside, holds):
    one = Held(Forecast("v", share, sentences.OWN_SHARE), interval(measured))
    assert (one.inside, one.holds) == (inside, holds)
    assert one.to_dict()["holds"] == holds


def test_the_page_says_which_forecasts_did_not_hold():
    told = [Forecast(PLAIN, 0.4, sentences.OWN_SHARE), Forecast("v", 0.5, sentences.OWN_SHARE)]
    found = held([*told, Forecast("gone", 0.5, "")], compared(0.010, 0.004))
    assert [one.forecast.variant for one in found] == [PLAIN, "v"]
    said = sentence(found)
    assert said.startswith("Of the forecasts, ")
    assert "of 2 lie inside the measured interval, and" in said
    assert "reaches the 40% of the plain decoder: " in sentence(found, 0.4)
    assert "That of **v** did not hold: 50% was the forecast, and 25% [25, 25] was" in said
    assert "did not" not in sentence(found[:1])
    assert "no forecast" in sentence([])


SMALL = {
    "device": "cpu", "rounds": 5, "prompt_tokens": 12, "new_tokens": 3, "check_tokens": 4,
    "engines": ["torch"], "methods": ["rtn"], "calibration_tokens": 32, "quality_tokens": 64,
    "other_tokens": 32, "piece_tokens": 16, "group": 16, "long_context": 16,
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def study(model, tmp_path, monkeypatch):
    monkeypatch.setenv("LABKIT_RUN_DIR", str(tmp_path))
    return quantization.Study(model=str(model), **SMALL)


def test_the_study(study, tmp_path, capsys, monkeypatch):
    prompts: list[list[int]] = []
    make = quantization_measured.generate
    noted = lambda made, ids, count: prompts.append(ids) or make(made, ids, count)  # noqa: E731
    monkeypatch.setattr(quantization_measured, "generate", noted)
    study.predict()
    assert "comparison" not in vars(study), "what is told comes before what is measured"
    assert not {tuple(ids) for ids in prompts} & {tuple(study.lab.prompt(k)) for k in range(6)}
    for show in (study.same_answer, study.measure, study.answers, study.against_limit):
        show()
    study.forecasts_held()
    said = capsys.readouterr().out
    assert said.count("against the plain decoder on 64 positions") == 1
    assert said.count("against the plain decoder on 32 positions") == 1
    assert said.count("16 tokens of one text, against the plain decoder on 16 positions") == 1
    assert "of 3 lie inside the measured interval" in said
    assert "For comparison, the forecast that every variant" in said
    rows = json.loads((tmp_path / "traces/04_quantization/forecasts.json").read_text())["rows"]
    assert [row["variant"] for row in rows] == [PLAIN, EIGHT, CACHE]
    check_findings(study)


def check_findings(study):
    """Each is held against its own bytes, in words and numbers, and carries its answers."""
    found = {(one.variant, one.phase): one for one in study.findings()}
    assert set(found) == {(name, p) for name in (EIGHT, CACHE) for p in ("decode", "prefill")}
    eight = found[EIGHT, "decode"]
    assert eight.weights == "int8, one scale a row (float32 sums)"
    kv = study.lab.middle * study.lab.config.kv_bytes_per_token(4)
    assert eight.bytes_read == read_bytes(study.runs[EIGHT]) + kv
    assert found[CACHE, "decode"].bytes_read < found[CACHE, "decode"].model["weight_bytes"] + kv
    for one in found.values():
        assert one.quality["positions"] == 32
        assert one.of_bare_read is not None


def test_what_a_limit_is_worth_is_told_over_the_baseline_as_measured(study):
    limit = study.lab.least(study.costs[EIGHT, "decode"]).seconds
    taken, plain = study.comparison.mean(EIGHT), study.comparison.mean(PLAIN)
    told = "–" if limit > taken else times(plain / limit)
    assert study._speed(EIGHT, "decode")["at its limit"] == told
    told = "–" if limit > study.earlier.mean(EIGHT) else times(1 / limit)
    assert study._before(EIGHT, plain=1.0)["at its limit"] == told


def test_a_limit_that_was_beaten_is_told_neither_before_nor_after(study, monkeypatch):
    monkeypatch.setattr(type(study.lab), "least", lambda lab, cost, tokens=1.0: Least(1e6, 2e6))
    before, row = study._before(EIGHT, plain=1.0), study._speed(EIGHT, "decode")
    assert (before["limit"], before["at its limit"]) == ("–", "–")
    assert (row["of its limit"], row["at its limit"]) == ("–", "–")


def test_only_the_methods_of_a_run_are_explained(study, capsys):
    study.explain()
    said = capsys.readouterr().out
    assert "Nearest" in said
    assert "GPTQ" not in said
    study.methods = ["gptq", "hqq"]
    study.explain()
    said = capsys.readouterr().out
    assert "GPTQ" in said
    assert "hqq.hqq]" in said


def test_the_notebooks_own_text_names_no_method_that_a_run_may_leave_out():
    notebook = nbformat.read(project_root() / "notebooks/04_quantization.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for word in ("GPTQ", "HQQ", "unquantized"):
        assert word not in text


def test_wrong_parameters_are_refused_before_a_model_is_loaded():
    for wrong, named in (({"methods": ["awq"]}, "'awq'"), ({"long_context": -1}, "-1")):
        with pytest.raises(Exception, match=named):
            quantization.Study(model="/nowhere", **wrong)
