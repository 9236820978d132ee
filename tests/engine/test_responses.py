"""The response cache: identical requests only, and answers as they were."""

from __future__ import annotations

import sqlite3
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.engine.responses import ResponseCache, ResponseKey, StoredAnswer
from labkit.errors import ParameterError

KEY = ResponseKey(
    "0123", (5, 6, 7), 20, temperature=0.7, top_k=40, top_p=0.9, seed=3,
    stop_ids=frozenset({2, 9}), stop_strings=frozenset({"END"}), adapter="a", salt="s",
)  # fmt: skip
ANSWER = StoredAnswer((1, 2, 3), "stop")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "answers.sqlite"


@pytest.fixture(autouse=True)
def _no_warning_is_expected() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_an_answer_is_found_again_also_by_another_cache(file: Path) -> None:
    one = ResponseCache(file)
    assert one.get(KEY) is None
    assert one.put(KEY, ANSWER)
    assert one.get(KEY) == ANSWER
    other = ResponseCache(file)
    assert other.get(KEY) == ANSWER
    assert (one.hits, one.misses, other.hits, other.count()) == (1, 1, 1, 1)
    one.close()
    assert one.get(KEY) == ANSWER  # it opens again
    assert not file.with_name("answers.sqlite-wal.aside-1").exists()


CHANGES: list[dict[str, Any]] = [
    {"weights": "0124"},
    {"tokens": (5, 6, 8)},
    {"tokens": (5, 6)},
    {"max_new_tokens": 21},
    {"temperature": 0.71},
    {"temperature": 0.0},
    {"top_k": 0},
    {"top_p": 1.0},
    {"seed": 4},
    {"stop_ids": frozenset({2})},
    {"stop_strings": frozenset({"END", "STOP"})},
    {"stop_strings": frozenset({"EN"})},
    {"adapter": "s", "salt": "a"},
    {"adapter": "as", "salt": ""},
    {"adapter": "", "salt": "as"},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: "-".join(change))
def test_another_request_finds_nothing(file: Path, change: dict[str, Any]) -> None:
    cache = ResponseCache(file)
    cache.put(KEY, ANSWER)
    assert cache.get(replace(KEY, **change)) is None


def test_what_changes_no_answer_changes_no_key() -> None:
    greedy = replace(KEY, temperature=0.0)
    assert greedy.hash == replace(greedy, seed=None, top_k=3, top_p=0.5).hash
    same = replace(KEY, stop_ids=frozenset([9, 2]), top_p=0.9, tokens=(5, 6, 7))
    assert same.hash == KEY.hash


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(max_size=3), min_size=3, max_size=3),
       st.lists(st.text(max_size=3), min_size=3, max_size=3))  # fmt: skip
def test_no_field_runs_into_the_next(one: list[str], other: list[str]) -> None:
    keys = [
        ResponseKey("w" + weights, (1,), 1, adapter=adapter, salt=salt)
        for weights, adapter, salt in (one, other)
    ]
    assert (keys[0].hash == keys[1].hash) == (one == other)


def test_sampling_without_a_seed_is_never_kept(file: Path) -> None:
    cache = ResponseCache(file)
    unseeded = replace(KEY, seed=None)
    assert not unseeded.cacheable
    assert not cache.put(unseeded, ANSWER)
    assert cache.get(unseeded) is None
    assert cache.count() == 0
    assert replace(unseeded, temperature=0.0).cacheable  # greedy needs none


def test_equal_hashes_of_other_requests_are_told_apart(file: Path) -> None:
    """As if SHA-256 had a collision: the whole key is compared."""
    cache = ResponseCache(file)
    cache.put(KEY, ANSWER)
    collides = replace(KEY, tokens=(1,))
    collides.__dict__["hash"] = KEY.hash
    assert collides.encoded != KEY.encoded
    assert cache.get(collides) is None
    assert cache.put(collides, StoredAnswer((9,), "stop"))
    assert cache.get(KEY) == ANSWER
    assert cache.damaged == 0


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**40), max_size=20), st.text(max_size=5))
def test_answers_are_read_as_they_were_written(tokens: list[int], finish: str) -> None:
    answer = StoredAnswer(tuple(tokens), finish)
    assert StoredAnswer.of(answer.encoded()) == answer


def test_the_first_answer_stays(file: Path) -> None:
    cache = ResponseCache(file)
    cache.put(KEY, ANSWER)
    cache.put(KEY, StoredAnswer((4,), "stop"))
    assert cache.get(KEY) == ANSWER


def test_the_oldest_answers_go_first(file: Path) -> None:
    cache = ResponseCache(file, most=5)
    keys = [replace(KEY, tokens=(number,)) for number in range(12)]
    for key in keys:
        cache.put(key, ANSWER)
    assert [cache.get(key) is not None for key in keys] == [False] * 7 + [True] * 5
    assert cache.count() == 5


def test_an_answer_waits_while_another_process_writes(file: Path) -> None:
    cache = ResponseCache(file)
    cache.put(KEY, ANSWER)
    writer = sqlite3.connect(file, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    later = replace(KEY, tokens=(8,))
    assert cache.put(later, ANSWER)
    assert cache.pending == 1
    assert cache.get(later) == cache.get(KEY) == ANSWER  # reading never waits
    assert ResponseCache(file).get(later) is None
    writer.execute("COMMIT")
    assert cache.put(replace(KEY, tokens=(9,)), ANSWER)
    assert (cache.pending, cache.count()) == (0, 3)


def test_closing_tells_what_it_could_not_write(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labkit.engine.responses._CLOSING", 1)
    cache = ResponseCache(file)
    cache.put(KEY, ANSWER)
    writer = sqlite3.connect(file, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    cache.put(replace(KEY, tokens=(8,)), ANSWER)
    with pytest.warns(RuntimeWarning, match="1 answers were not written: another process"):
        cache.close()
    writer.execute("ROLLBACK")


def test_what_is_no_request_or_no_answer_is_refused(file: Path) -> None:
    for change in ({"weights": ""}, {"tokens": ()}, {"max_new_tokens": 0}):
        with pytest.raises(ParameterError, match="a response needs"):
            replace(KEY, **change)
    for change in ({"temperature": float("nan")}, {"top_p": float("inf")}):
        with pytest.raises(ParameterError, match="temperature"):
            replace(KEY, **change)
    with pytest.raises(ParameterError, match="21 tokens to a request for 20"):
        ResponseCache(file).put(KEY, StoredAnswer((1,) * 21, "length"))
    with pytest.raises(ParameterError, match="a cache of 0 answers"):
        ResponseCache(file, most=0)
