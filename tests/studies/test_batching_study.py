"""The study of notebook 07 on a tiny model: its limits, its forecasts, and what stops it."""

from __future__ import annotations

from typing import Any

import pytest

from labkit.engine.one_hash import Line
from labkit.limits.cost import step_cost
from labkit.model.cache.paged import BLOCK_SIZE
from labkit.optimize.fused import FusedDecoder, load_fused
from labkit.quality.lossless import SameAnswer
from labkit.studies import batching
from labkit.studies.batching import Study
from labkit.studies.batching_answers import Mixed
from labkit.studies.batching_measured import ENGINE_ONE, IN_FLIGHT, STATIC
from labkit.studies.speculative_target import Target
from tests.test_notebooks import TINY
from tests.tiny import save_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("model")))


def study_of(folder: str, **changes: Any) -> Study:
    return Study(model=folder, device="cpu", **TINY["07_batching"] | changes)


@pytest.fixture(scope="module")
def study(folder: str) -> Study:
    """With the fused decoder; nothing in it is timed before a test looks at it."""
    found = study_of(folder)
    found.target = Target("fused decoder", load_fused(folder, weights="q8_0"), products="int8")
    return found


def test_a_pass_of_several_requests_reads_the_whole_head_and_more_of_the_cache(
    study: Study,
) -> None:
    fused = study.target.decoder
    assert isinstance(fused, FusedDecoder)
    assert list(study.limits) == [1, 2, 4]
    one, _, four = study.limits.values()
    assert (one.gain, one.cost.weight_bytes) == (1, fused.weight_bytes)
    assert four.cost.weight_bytes == fused.all_logits_bytes
    assert four.cost.kv_read_bytes == 4 * one.cost.kv_read_bytes
    a_token = study.lab.config.kv_bytes_per_token(2)
    assert one.cost.kv_read_bytes == study.lab.middle * a_token
    config, middle = study.lab.config, study.lab.middle
    assert study.cost(4).flops == step_cost(config, middle, 4, dtype="int8").flops


def test_forecasts_follow_from_the_cost_of_rows(study: Study) -> None:
    costs = study.costs
    assert {1, 2, 4} <= set(costs.measured)
    hardware, context = study.lab.hardware, costs.context
    # Four requests read the keys and values of three more than the text that rows were timed after.
    more = 3 * context * study.kv_bytes
    read = more / hardware.bandwidth(study.cost(1).weight_bytes + more)
    assert study.taking(4, 4 * context) == pytest.approx(costs.seconds * costs.r(4) + read)
    assert study.expected_gains[4] == pytest.approx(
        4 * costs.seconds / study.taking(4, 4 * context)
    )
    told = study.forecasts
    assert list(told) == [STATIC, IN_FLIGHT, ENGINE_ONE, "engine, 4 in flight"]
    assert told[STATIC].tokens == told[IN_FLIGHT].tokens == sum(study.work.lengths)
    assert len(told[IN_FLIGHT].passes) <= len(told[STATIC].passes)
    passes = told[ENGINE_ONE].passes
    assert [one.prefill + one.decode for one in passes] == [12, 1, 1, 1, 1, 1]
    expected = sum(
        study.taking(one.prefill + one.decode, one.blocks_held * BLOCK_SIZE) for one in passes
    )
    assert told[ENGINE_ONE].seconds == pytest.approx(expected)


def test_answers_have_the_bits_that_they_have_alone(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    study.same_answer()
    said = capsys.readouterr().out
    assert "6 of 6 answers equal" in said
    assert "is one hash in all 8 ways" in said
    assert study.mixed.preempted > 0


def test_the_plain_decoder_is_compared_by_its_tokens(
    folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = study_of(folder)
    plain.target = Target("plain decoder", plain.lab.decoder, "there is no compiler.")
    plain.same_answer()
    said = capsys.readouterr().out
    assert "Everything below runs on the plain decoder: there is no compiler." in said
    assert "Logits are not compared" in said
    assert plain.limits[4].cost.dtype == "float32"


def test_a_changed_answer_stops_the_study(
    folder: str, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = study_of(folder)
    wrong.target = study.target
    vars(wrong)["mixed"] = Mixed([SameAnswer(8, 3, 2.0)], [])
    with pytest.raises(AssertionError, match="a schedule changed an answer"):
        wrong.same_answer()
    vars(wrong)["mixed"] = Mixed([SameAnswer(8, 8)], [])
    ended = [Line("alone, here", "a" * 64, 1.0), Line("cold, here", "b" * 64, 1.0, "1 of 6")]
    monkeypatch.setattr(batching, "hashed", lambda *_: ended)
    with pytest.raises(AssertionError, match="changed their bits"):
        wrong.same_answer()


def test_the_engine_is_held_against_its_own_passes(study: Study) -> None:
    found = study.engine
    assert found.variants == ["generate, one request", ENGINE_ONE, study.many_name]
    for name in (ENGINE_ONE, study.many_name):
        share = found.share(name, "seconds_a_token")
        assert share is not None
        assert share.value > 0
    assert len(found.traces[study.many_name][0].times) == study.requests * study.new_tokens
    made = study.by_engine[study.many_name]
    assert [one.rows for one in study.forecasts[study.many_name].passes] == [
        tuple(row._replace(request=row.request - _first(made.passes)) for row in one.rows)
        for one in made.passes
    ]


def _first(passes: Any) -> int:
    """The number of the first request; an engine goes on counting."""
    return passes[0].rows[0].request


def test_a_policy_is_seen_once_a_round(study: Study) -> None:
    found, rounds = study.policies
    assert {len(of) for of in rounds.values()} == {found.rounds} == {5}
    for served in rounds[IN_FLIGHT]:
        assert [len(served.traces[n].tokens) for n in range(6)] == list(study.work.lengths)
    assert study.full_rate > 0
    assert list(rounds) == [STATIC, IN_FLIGHT]
