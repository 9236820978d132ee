"""Notebook 06: each turn is what its name says, and what follows from turns is counted right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from labkit.engine.prefix import PrefixCache
from labkit.engine.records import PassRecord, RequestRows
from labkit.engine.served import ServedRequest
from labkit.errors import ParameterError
from labkit.report.told.compared import Least
from labkit.studies import caching, caching_near
from labkit.studies.caching_alone import ANSWERED, OFF, ON, ON_DISK
from labkit.studies.caching_first import CACHED, DISK, HELD, MEMORY, RECOMPUTED, MissedPrefix
from labkit.studies.caching_loads import (
    LOADS,
    PIPELINE,
    QUESTIONS,
    fitting,
    prefill_seconds,
    repeated_share,
)
from labkit.studies.caching_loads import OFF as NO_CACHE
from labkit.studies.caching_loads import ON as PREFIX
from labkit.studies.caching_near import NEW, OTHER, OVERLAP, REWORDED, STREAMS
from labkit.studies.caching_served import ask, block_files, fetched, forget, recall
from labkit.workload.questions import short
from tests.tiny import save_tiny_model

SMALL = {
    "new_tokens": 3, "prefixes": [16, 40], "own_tokens": 20, "rounds": 5, "load_rounds": 5,
    "workloads": [QUESTIONS, PIPELINE], "requests": 6, "slots": 2, "zero_tokens": 32,
    "zero_rounds": 5, "near_questions": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[caching.Study]:
    patch = pytest.MonkeyPatch()
    patch.setenv("LABKIT_RUN_DIR", str(tmp_path_factory.mktemp("run")))
    model = str(save_tiny_model(tmp_path_factory.mktemp("model")))
    yield caching.Study(model, "cpu", **SMALL)
    patch.undo()


def test_answers_from_a_cached_prefix_have_the_bits_of_those_alone(study: caching.Study) -> None:
    assert [one.way for one in study.proved] == ["cold", "hit in memory", "hit on disk"]
    assert all(one.lossless for one in study.proved)
    if study.exact:
        assert all(one.exact for one in study.proved)
    assert "of the prompts' tokens were hits" in study.proved[1].fact
    assert "tokens read from disk" in study.proved[2].fact


def test_predictions_are_told_before_anything_is_compared(study: caching.Study) -> None:
    study.predict()
    assert "comparisons" not in vars(study.first)
    assert all("comparison" not in vars(one) for one in study.whole.values())
    for length in study.first.prefixes:
        for way in (MEMORY, HELD, DISK):
            assert study.first.expected_seconds(way, length) > 0
    first = study.first
    assert first.middle == 16
    same = first.expected_seconds(RECOMPUTED, 16)
    assert same == pytest.approx(first.earlier.mean(RECOMPUTED, "ttft"))
    assert first.expected_seconds(DISK, 40) > first.expected_seconds(MEMORY, 40)


def test_no_first_token_is_predicted_below_its_limit_unless_an_earlier_one_beat_it(
    study: caching.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = study.first
    taken, free = first.earlier.mean(MEMORY, "ttft"), first.expected_seconds(MEMORY, 40)
    least = {first.middle: taken, 40: 2 * free}
    monkeypatch.setattr(first, "least", lambda way, length: Least(least[length]))
    assert first.expected_seconds(MEMORY, 40) == 2 * free
    least[first.middle] = 2 * taken
    assert first.limit(MEMORY, 40) is None
    assert first.expected_seconds(MEMORY, 40) == free


def test_a_prefix_counts_in_whole_blocks(study: caching.Study) -> None:
    first = study.first
    assert first.read_bytes(40) == 32 * first.kv_bytes
    assert first.cost(MEMORY, 40).flops < first.cost(RECOMPUTED, 40).flops
    assert first.least(DISK, 40).seconds > first.least(MEMORY, 40).seconds
    assert first.least(RECOMPUTED, 40).seconds == first.expected.prefill(0, 60) / first.slower(
        RECOMPUTED
    )


def test_every_turn_finds_the_prefix_where_its_name_says(study: caching.Study) -> None:
    first = study.first
    for length, found in first.comparisons.items():
        assert found.variants == [RECOMPUTED, *CACHED]
        assert not found.failed
        seen = [one for one in first.seen if one.length == length]
        assert [sum(one.way == way for one in seen) for way in (RECOMPUTED, DISK)] == [10, 5]
        assert {trace.prompt_tokens for trace in found.traces[DISK]} == {length + 20}
    prompts = [tuple(first._prompt(40, 1)[40:]) for _ in range(20)]
    assert len({prompt[0] for prompt in prompts}) == 20


def test_a_prefix_that_is_gone_is_no_measurement(study: caching.Study) -> None:
    first = study.first
    first._prepare(40, 7)
    first.prefix.clear()
    with pytest.raises(MissedPrefix, match="in memory: of 32 shared tokens, 0 were found"):
        _without_disk(first.prefix, lambda: first._turn(40, MEMORY, 7))
    first._ready = None


def _without_disk(prefix: PrefixCache, work: object) -> None:
    disk, prefix.disk = prefix.disk, None
    try:
        work()  # type: ignore[operator]
    finally:
        prefix.disk = disk


def test_files_of_a_tier_are_read_and_forgotten(study: caching.Study, tmp_path: Path) -> None:
    first = study.first
    first._prepare(40, 8)
    assert len(block_files(first.folder)) >= 2
    forget(first.folder)
    before = fetched()
    recall(first.folder)
    after = fetched()
    if before is not None and after is not None:
        assert after >= before
    assert block_files(tmp_path) == []


def test_a_load_begins_with_empty_caches_and_finds_what_repeats(study: caching.Study) -> None:
    asked = study.whole[QUESTIONS]
    assert asked.comparison.variants == [NO_CACHE, PREFIX, "response cache"]
    assert asked.same == 1 or not study.exact
    assert 0 <= asked.recalled <= asked.recallable < 1
    assert 0 < asked.hit_rate < 1
    assert {one.hits for one in asked.rounds_of(NO_CACHE)} == {0}
    staged = study.whole[PIPELINE]
    assert staged.hit_rate > 0  # the templates of the second problem
    assert staged.expected > 1
    assert staged.comparison.variants == [NO_CACHE, PREFIX]


def test_prefill_is_what_a_pass_takes_beyond_a_pass_of_answers() -> None:
    def passed(seconds: float, prefill: int, decode: int) -> PassRecord:
        rows = [RequestRows(0, prefill, 0, 0)] if prefill else []
        rows += [RequestRows(1, 0, decode, decode)] if decode else []
        return PassRecord(1.0, 1.0 + seconds, tuple(rows))

    passes = [passed(4, 32, 0), passed(3, 16, 2), passed(1, 0, 2), passed(1, 0, 3)]
    assert prefill_seconds(passes) == pytest.approx(4 + 2)
    assert prefill_seconds(passes[2:]) == 0


def test_the_share_of_repeated_requests_by_hand() -> None:
    assert repeated_share(1, 5, 1.0) == pytest.approx(0)
    assert repeated_share(2, 2, 0.0) == pytest.approx(
        1 - 1.5 / 2
    )  # the second is new half the time
    assert repeated_share(10**6, 10, 1.0) == pytest.approx(1 - 10 / 10**6)
    assert repeated_share(100, 50, 1.5) > repeated_share(100, 50, 0.5)


def test_a_load_that_the_model_cannot_hold_is_left_out_with_a_reason(study: caching.Study) -> None:
    workload = study.whole[QUESTIONS].workloads[0]
    longest = workload.longest
    made = {"a": lambda seed: workload, "b": lambda seed: study.whole[PIPELINE].workloads[0]}
    config = study.lab.config
    kept, left = fitting(made, ["a", "b"], _with(config, longest))
    assert list(kept) == ["a"]
    assert "the model's context is" in left["b"]


def _with(config: object, positions: int) -> object:
    from dataclasses import replace

    return replace(config, max_positions=positions)  # type: ignore[type-var]


def test_requests_that_share_nothing_hit_nothing(study: caching.Study) -> None:
    found = study.nothing
    assert found.comparison.variants == [OFF, ON, ON_DISK]
    assert found.hits == 0
    for way in (ON, ON_DISK):
        assert found.longer(way).value == pytest.approx(
            1 / found.comparison.speedup(way, "e2e_latency").value
        )
        assert len(found.longer_by_own(way).rounds) == 5
    assert found.written_behind(ON).value == 1
    assert found.written_behind(ON_DISK).low > 1
    assert found.written > 0  # evicted blocks


def test_identical_requests_are_answered_from_the_file(study: caching.Study) -> None:
    found = study.identical
    assert ANSWERED in found.comparison.variants
    assert found.same == (6, 6) or not study.exact
    assert found.seeded == (3, 3) or not study.exact
    assert not found.unseeded()


def test_a_failed_request_raises_what_it_failed_with(study: caching.Study) -> None:
    def broken(logits: object) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask(study.first.engine, ServedRequest([1, 2, 3], 2, broken))


# Nearly the same question


def test_changes_keep_or_change_what_is_asked() -> None:
    for question in short(20, seed=6):
        same, changed = caching_near.reworded(question), caching_near.other(question)
        assert len({question.prompt, same, changed}) in (2, 3)  # a sum of two equal numbers
        assert changed != question.prompt
        if question.kind == "sum":
            totals = [
                sum(map(int, text.split("\n")[-1][:-1].split("+"))) for text in (same, changed)
            ]
            assert totals == [int(question.expected[0]), int(question.expected[0]) + 1]
        else:
            name = question.prompt.split("\n")[-1].split()[2]
            assert f"does {name} work" in same.split("\n")[-1]
            assert name not in changed.split("\n")[-1]


def test_the_value_of_an_answer_is_its_first_number() -> None:
    question = short(1)[0]
    assert caching_near.value_of(question, " 17\n3 + 4") == "17"
    assert caching_near.value_of(question, "I do not know") == ""


def test_the_nearest_answer_is_given_from_the_threshold_on(study: caching.Study) -> None:
    near = study.near
    assert [one.kind for one in near.asked[:3]] == [REWORDED, OTHER, NEW]
    assert len(near.asked) == 3 * len(near.cached) == 18
    for way in (STREAMS, OVERLAP):
        found = near.similarities[way]
        assert found.shape == (18, 6)
        assert np.abs(found).max() <= 1 + 1e-5
        assert near.at(way, -2.0).hits == 18
        assert near.at(way, 2.0).hits == 0
        hits = [near.at(way, threshold).hits for threshold in (0.0, 0.5, 0.9, 1.0)]
        assert hits == sorted(hits, reverse=True)


def test_a_question_in_the_cache_is_as_near_to_itself_as_can_be(study: caching.Study) -> None:
    near = study.near
    texts = [set(near._ids(one.prompt)) for one in near.cached]
    first = near.asked[0]
    overlap = len(texts[0] & set(near._ids(first.text))) / len(
        texts[0] | set(near._ids(first.text))
    )
    assert near.similarities[OVERLAP][0, 0] == overlap


# Parameters


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"prefixes": [8]}, "whole numbers from 16"),
        ({"workloads": ["chat"]}, "shared system prompt"),
        ({"thresholds": [1.5]}, "numbers above 0, up to 1"),
        ({"slots": 0}, "whole numbers from 1 to 256"),
        ({"zero_rounds": 4}, "whole numbers from 5"),
    ],
)
def test_values_that_no_run_can_use_are_refused_before_a_model_is_loaded(
    wrong: dict[str, object], words: str
) -> None:
    with pytest.raises(ParameterError, match=words):
        caching.Study(model="/nowhere", **wrong)  # type: ignore[arg-type]


def test_all_loads_are_made() -> None:
    assert set(LOADS) == {
        "shared system prompt", "chats", "repeated questions", "reasoning pipeline",
        "replay of a trace",
    }  # fmt: skip
