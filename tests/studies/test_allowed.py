"""No value that a notebook cannot use gets past the check before a run, and none that it can is
refused."""

from __future__ import annotations

import importlib
import json
import math
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.base.paths import project_root
from labkit.errors import ParameterError
from labkit.model.cache.paged import BLOCK_SIZE
from labkit.model.experts import Experts
from labkit.optimize.quantization import METHODS
from labkit.optimize.quantization.decoder import CALIBRATED
from labkit.optimize.quantization.grid import BITS
from labkit.report.runs.notebooks import apply_overrides, discover, read_profile
from labkit.report.runs.request import ReportRequest, plan
from labkit.studies import (
    allowed,
    batching_stall,
    batching_workloads,
    caching_loads,
    quantization_variants,
    timing,
)
from labkit.studies.allowed import ALLOWED, Model, check, check_identified, model_of
from labkit.timing.statistics import FEWEST_ROUNDS
from labkit.workload.tasks import KINDS, human_eval, tasks
from labkit.workload.texts import PARTS, PURPOSES, most_tokens, pieces
from tests.test_notebooks import TINY
from tests.tiny import CONFIG

EVERY = discover(project_root() / "notebooks")
DEFAULTS = {notebook.name: notebook.defaults() for notebook in EVERY}
TEXT = {purpose: dict.fromkeys(PARTS, 50_000) for purpose in PURPOSES}
LARGE = Model(8192, (576, 1536), TEXT.__getitem__)
PAIRS = [(name, parameter) for name, of in ALLOWED.items() for parameter in of]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.text(max_size=5) | st.floats() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("a"), inner),
    max_leaves=4,
)


def with_value(notebook: str, parameter: str, value: Any) -> dict[str, Any]:
    return DEFAULTS[notebook] | {parameter: value}


def refused(notebook: str, values: dict[str, Any], model: Model | None = None) -> str:
    """The line with which values are refused; empty where they are taken."""
    try:
        check(notebook, values, model)
    except ParameterError as error:
        said = str(error)
        assert "\n" not in said
        assert len(said) < 600
        assert said.startswith(f"{notebook}: ")
        assert "; allowed: " in said
        return said
    return ""


def test_every_parameter_of_every_notebook_has_a_rule() -> None:
    for notebook in EVERY:
        assert list(ALLOWED[notebook.name].keys() ^ notebook.parameters.keys()) == []
        study = importlib.import_module(f"labkit.studies.{notebook.name[3:]}").Study
        assert {field.name for field in fields(study)} == ALLOWED[notebook.name].keys()
    assert {notebook.name for notebook in EVERY} == ALLOWED.keys()


@pytest.mark.parametrize("profile", ["", "quick", "full"])
def test_our_own_values_are_taken(profile: str) -> None:
    folder = project_root() / "notebooks"
    given = apply_overrides(EVERY, EVERY, read_profile(folder, profile), profile) if profile else {}
    for name, values in DEFAULTS.items():
        assert refused(name, values | given.get(name, {}), LARGE) == ""


def test_the_values_of_the_tests_fit_a_tiny_model() -> None:
    tiny = Model(512, (64, 96), TEXT.__getitem__)
    for name, values in TINY.items():
        assert refused(name, DEFAULTS[name] | values, tiny) == ""


def test_numbers_are_those_of_the_routines() -> None:
    assert (allowed.ROUNDS, allowed.BITS, allowed.METHODS) == (FEWEST_ROUNDS, BITS, METHODS)
    assert allowed.ENGINES == quantization_variants.ENGINES
    assert allowed.CALIBRATED == CALIBRATED
    assert allowed.SERIES == timing.FEWEST_IN_SERIES
    assert (allowed.LOADS, allowed.BLOCK) == (caching_loads.LOADS, BLOCK_SIZE)
    assert allowed.MEDIANS == batching_workloads.MOST_MEDIANS
    assert batching_workloads.A_ROUND > allowed.REQUESTS
    assert allowed.AFTER == batching_stall.AFTER + 1
    assert allowed.BESIDE > batching_stall.BEFORE
    assert max(timing.LENGTHS) == allowed.LONGEST_ANSWER
    for kind in KINDS:
        assert len(tasks((kind,), held_out=True)) >= allowed.TASKS
        assert len(tasks((kind,), held_out=False)) >= allowed.CALIBRATION
    assert len(human_eval(allowed.HUMAN_EVAL)) == allowed.HUMAN_EVAL
    with pytest.raises(ParameterError):
        human_eval(allowed.HUMAN_EVAL + 1)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PAIRS), ANYTHING)
def test_whatever_is_given_is_taken_or_refused_in_a_line(pair: tuple[str, str], value: Any) -> None:
    values = with_value(*pair, value)
    if said := refused(pair[0], values):
        assert f"{pair[1]} is " in said
    else:
        refused(pair[0], values, LARGE)  # no other error


@pytest.mark.parametrize(("notebook", "parameter"), PAIRS)
def test_bad_values_of_each_parameter_are_refused(notebook: str, parameter: str) -> None:
    default = DEFAULTS[notebook][parameter]
    bad: list[Any] = [None, {}, {"a": 1}, object()]
    if isinstance(default, bool):
        bad += [0, 1, "true"]
    elif isinstance(default, int):
        bad += [-1, -(10**9), 10**30, 1.5, True, "3", [3], math.nan, math.inf]
    elif isinstance(default, float):
        bad += [0, -1, 10**30, math.nan, math.inf, -math.inf, True, "0.5", [0.5]]
    elif isinstance(default, list):
        bad += [
            [],
            "rtn",
            4,
            [None],
            [[1]],
            [default[0], default[0]],
            [math.nan],
            [0],
            [-1],
            [True],
        ]
    for value in bad:
        assert refused(notebook, with_value(notebook, parameter, value)), value


BAD_FOR_THE_MODEL = [
    ("00_speed_limit", {"prompt_tokens": 8190}, "8,192 tokens, the model's context"),
    ("00_speed_limit", {"check_tokens": 8190}, "check_tokens"),
    ("01_timing", {"prompt_tokens": 8177}, "prompt_tokens is 8177"),
    ("02_kv_cache", {"contexts": [64, 8170]}, "contexts is [64, 8170]"),
    ("02_kv_cache", {"check_tokens": 9000}, "8,192 tokens"),
    ("03_graph_rewriting", {"prefill_tokens": 8190}, "prefill_tokens"),
    ("04_quantization", {"group": 48 * 7}, "sizes of all matrices, 576, 1536"),
    ("04_quantization", {"group": 576}, "576 does not divide 1536"),
    ("04_quantization", {"long_context": 8000}, "piece_tokens is 512, long_context is 8000"),
    ("04_quantization", {"quality_tokens": 100_001}, "has no more in pieces of"),
    ("04_quantization", {"calibration_tokens": 200_000}, "has no more in pieces of"),
    ("04_quantization", {"rounds": 100_000}, "rounds is 100000"),
    ("05_speculative", {"new_tokens": 5000}, "half of the model's context"),
    ("05_speculative", {"rows": [1, 5000]}, "rows"),
    ("06_caching", {"prefixes": [64, 8170]}, "prefixes is [64, 8170]"),
    ("06_caching", {"zero_tokens": 8190}, "zero_tokens"),
    ("07_batching", {"median": 1020}, "median is 1020"),
    ("07_batching", {"long_prompt": 8190}, "8,192 tokens, the model's context"),
    ("15_the_limit", {"long_context": 8192}, "long_context"),
    ("15_the_limit", {"row_counts": [1, 8100]}, "row_counts"),
    ("15_the_limit", {"quality_tokens": 900_000}, "has no more in pieces of"),
]  # fmt: skip


@pytest.mark.parametrize(("notebook", "changes", "words"), BAD_FOR_THE_MODEL)
def test_what_does_not_fit_the_model_is_refused(
    notebook: str, changes: dict[str, Any], words: str
) -> None:
    values = DEFAULTS[notebook] | changes
    assert refused(notebook, values) == ""  # of some model it could be true
    assert words in refused(notebook, values, LARGE)


def test_a_group_may_be_any_that_divides() -> None:
    for group in (1, 2, 16, 32, 48, 64, 96, 192):
        assert (
            refused("04_quantization", with_value("04_quantization", "group", group), LARGE) == ""
        )


def test_a_model_s_facts_come_from_its_config_and_the_text() -> None:
    found = model_of(asdict(CONFIG), TEXT.__getitem__)
    assert (found.context, found.inputs) == (256, (48, 80))
    identity = json.loads(json.dumps({"config": asdict(CONFIG), "text": TEXT}))
    longer = with_value("00_speed_limit", "prompt_tokens", 129)
    with pytest.raises(ParameterError, match="256 tokens, the model's context"):
        check_identified("00_speed_limit", longer, identity)
    check_identified("00_speed_limit", DEFAULTS["00_speed_limit"], None)


def test_a_mixture_of_experts_has_its_own_sizes_and_methods() -> None:
    every = Experts(count=8, used=2, size=24, layers=(0, 1))
    found = model_of(asdict(replace(CONFIG, experts=every)), TEXT.__getitem__)
    assert (found.inputs, found.experts) == ((48, 24), True)
    some = replace(CONFIG, experts=replace(every, layers=(1,)))
    assert model_of(asdict(some), TEXT.__getitem__).inputs == (48, 24, 80)
    values = DEFAULTS["04_quantization"] | {"group": 8}
    large = LARGE._replace(experts=True)
    assert "rtn, hqq, symmetric, for this is a" in refused("04_quantization", values, large)
    assert refused("04_quantization", values | {"methods": ["rtn", "hqq"]}, large) == ""


def test_a_notebook_of_the_user_may_have_any_value() -> None:
    check("20_mine", {"rounds": -1}, LARGE)


class _Spaces:
    """A tokenizer whose tokens are words."""

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [0] * len(text.split())


def test_the_most_text_can_be_had_and_no_more() -> None:
    from labkit.workload.texts import TextError, lengths

    tokenizer = _Spaces()
    there = lengths(tokenizer, "evaluation")
    for length in (7, 100, 3000):
        most = most_tokens(there, length)
        assert sum(map(len, pieces(tokenizer, "evaluation", most, length))) == most
        with pytest.raises(TextError):
            pieces(tokenizer, "evaluation", most + 1, length)


def test_all_notebooks_are_checked_before_a_run(tmp_path: Any) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("15_the_limit: {row_counts: []}")
    with pytest.raises(ParameterError, match=r"15_the_limit: row_counts is \[\]; allowed: a list"):
        plan(ReportRequest(params=path, only="00"), check_identified)
