"""Recorded traces: read as they are, damaged lines named, and replayed with what they share."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from labkit.errors import ParameterError
from labkit.workload import own_trace
from labkit.workload.conversations import common_prefix
from labkit.workload.recorded import (
    BLOCK,
    RecordedTrace,
    TracedRequest,
    TraceError,
    read_burstgpt,
    read_mooncake,
)
from labkit.workload.replay import replayed

GOOD = {"timestamp": 3000, "input_length": 1100, "output_length": 7, "hash_ids": [0, 4, 5]}
HEADER = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def mooncake(path: Path, *lines: Any) -> Path:
    path.write_text(
        "".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in lines)
    )
    return path


def test_mooncakes_form(tmp_path: Path) -> None:
    later = GOOD | {"timestamp": 4500, "input_length": 512, "hash_ids": [0]}
    found = read_mooncake(mooncake(tmp_path / "t.jsonl", GOOD, later))
    assert found.requests == (
        TracedRequest(0.0, 1100, 7, (0, 4, 5)),
        TracedRequest(1.5, 512, 7, (0,)),
    )


def test_burstgpts_form_and_its_failed_requests(tmp_path: Path) -> None:
    path = tmp_path / "b.csv"
    path.write_text(f"{HEADER}5,ChatGPT,472,18,490,Conversation log\n6,GPT-4,9,0,9,API log\n"
                    "45.5,GPT-4,1087,230,1317,API log\n")  # fmt: skip
    found = read_burstgpt(path)
    assert found.failed == 1
    assert found.requests == (TracedRequest(0.0, 472, 18), TracedRequest(40.5, 1087, 230))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"timestamp": 1, "input', "line 2: "),
        ("[1, 2]", "line 2: it must have the keys .*; it has list"),
        (GOOD | {"model": "x"}, "line 2: it must have the keys .*model"),
        ({"timestamp": 1}, "line 2: it must have the keys"),
        (GOOD | {"input_length": 0}, "input_length must be a whole number from 1"),
        (GOOD | {"input_length": -5}, "input_length must be a whole number"),
        (GOOD | {"input_length": 12.5}, "input_length must be a whole number"),
        (GOOD | {"input_length": True}, "input_length must be a whole number"),
        (GOOD | {"input_length": 10**12}, "input_length must be a whole number"),
        (GOOD | {"output_length": -1}, "output_length must be a whole number from 0"),
        (GOOD | {"timestamp": math.nan}, "a time must be a number from 0 on: nan"),
        (GOOD | {"timestamp": -1}, "a time must be a number from 0 on: -1"),
        (GOOD | {"timestamp": None}, "a time must be a number"),
        (GOOD | {"timestamp": True}, "a time must be a number"),
        (GOOD | {"hash_ids": [0, 4]}, "1100 tokens have 3 blocks of 512, and hash_ids names 2"),
        (GOOD | {"hash_ids": [0, 4, -5]}, "hash_ids must be a list of whole numbers"),
        (GOOD | {"hash_ids": "045"}, "hash_ids must be a list"),
        ("[" * 100_000, "line 2: "),
    ],
)
def test_a_damaged_line_is_named_by_its_number(tmp_path: Path, line: Any, message: str) -> None:
    path = mooncake(tmp_path / "t.jsonl", GOOD, line, GOOD)
    with pytest.raises(TraceError, match=message) as caught:
        read_mooncake(path)
    assert "t.jsonl, line 2: " in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("5,ChatGPT,472,18", "line 3: it has 4 values, and there are 6 columns"),
        ("5,ChatGPT,472,18,491,API log", "472 and 18 tokens are not 491 in total"),
        ("nan,ChatGPT,472,18,490,API log", "a time must be a number"),
        ("x,ChatGPT,472,18,490,API log", "line 3"),
        ("5,ChatGPT,4.5,18,490,API log", "Request tokens must be a whole number"),
        ("5,ChatGPT,-4,18,14,API log", "Request tokens must be a whole number"),
        (f"5,ChatGPT,{'9' * 5000},18,14,API log", "line 3"),
    ],
)
def test_a_damaged_row_is_named_by_its_number(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "b.csv"
    path.write_text(f"{HEADER}5,ChatGPT,472,18,490,Conversation log\n{row}\n")
    with pytest.raises(TraceError, match=message) as caught:
        read_burstgpt(path)
    assert "b.csv, line 3: " in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_file_that_is_no_trace_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t"
    with pytest.raises(TraceError, match="cannot be read: No such file"):
        read_mooncake(path)
    path.write_text("")
    with pytest.raises(TraceError, match="t has no request with an answer"):
        read_mooncake(path)
    with pytest.raises(TraceError, match="the first line must be Timestamp,Model"):
        read_burstgpt(path)
    path.write_text(f"{HEADER.strip()},Session ID\n")
    with pytest.raises(TraceError, match="Session ID"):
        read_burstgpt(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TraceError, match="no text in UTF-8"):
        read_mooncake(path)
    mooncake(path, GOOD, GOOD | {"timestamp": 10})
    with pytest.raises(TraceError, match="request 2 comes at 0.01 s, before"):
        read_mooncake(path)


def test_a_replay_shares_what_the_trace_shares() -> None:
    trace = RecordedTrace(
        "t",
        (TracedRequest(0, 1100, 8, (0, 4, 5)), TracedRequest(1, 1300, 80, (0, 4, 6)),
         TracedRequest(2, 1100, 8, (0, 7, 8))),
    )  # fmt: skip
    found = replayed(trace, 1000)
    one, two, three = (request.prompt for request in found.requests)
    assert (len(one), len(two), len(three)) == (1100, 1300, 1100)
    assert common_prefix([one, two]) == 2 * BLOCK
    assert common_prefix([one, three]) == BLOCK
    assert max(one) < 1000
    small = replayed(trace, 1000, shrink=8, speed=4.0)
    assert [len(request.prompt) for request in small.requests] == [137, 162, 137]
    assert [request.new_tokens for request in small.requests] == [1, 10, 1]
    assert [request.due for request in small.requests] == [0, 0.25, 0.5]
    assert common_prefix([request.prompt for request in small.requests[:2]]) == 2 * BLOCK // 8
    assert replayed(trace, 1000, seed=1) != found == replayed(trace, 1000)


def test_too_long_requests_are_left_out_and_told() -> None:
    trace = RecordedTrace("t", (TracedRequest(0, 90, 8), TracedRequest(1, 9, 8)), failed=2)
    found = replayed(trace, 50, most_tokens=20)
    assert len(found.requests) == 1
    assert found.facts == {"shrink": 1, "speed": 1.0, "left_out": 1, "failed": 2}
    with pytest.raises(ParameterError, match="has no request"):
        replayed(trace, 50, most_tokens=5)
    assert len(replayed(trace, 50, first=1).requests) == 1


@pytest.mark.parametrize(
    "given", [{"shrink": 3}, {"shrink": 0}, {"speed": 0.0}, {"speed": math.nan}, {"first": 0}]
)
def test_an_impossible_replay_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(given))):
        replayed(own_trace.own_trace(), 1000, **given)


def test_our_own_trace_is_what_its_command_writes(tmp_path: Path) -> None:
    done = CliRunner().invoke(own_trace.main, [str(tmp_path)])
    assert done.exit_code == 0
    shipped = Path(own_trace.__file__).parent / "traces"
    for name in (own_trace.MOONCAKE, own_trace.BURSTGPT):
        assert (tmp_path / name).read_text() == (shipped / name).read_text()
        assert (shipped / name).stat().st_size < 10_000


def test_both_forms_of_our_own_trace_tell_the_same() -> None:
    with_ids, without = own_trace.own_trace(), own_trace.own_trace_without_ids()
    assert len(with_ids.requests) > 40
    for one, other in zip(with_ids.requests, without.requests, strict=True):
        assert one.due == pytest.approx(other.due)
        assert (one.prompt_tokens, one.new_tokens) == (other.prompt_tokens, other.new_tokens)
    assert not any(one.hash_ids for one in without.requests)


def test_in_our_own_trace_all_share_a_block_and_turns_share_more() -> None:
    ids = [one.hash_ids for one in own_trace.own_trace().requests]
    assert {one[0] for one in ids} == {0}
    seen: set[tuple[int, ...]] = set()
    more = 0
    for one in ids:
        more += len(one) > 1 and one[:2] in seen
        seen.add(one[:2])
    assert more > 5
    parents = {one: one_ids[:k] for one_ids in ids for k, one in enumerate(one_ids)}
    for one_ids in ids:  # the same id always has the same blocks before it
        assert all(parents[one] == one_ids[:k] for k, one in enumerate(one_ids))


@pytest.mark.parametrize("line", [1, 2])
def test_a_table_with_a_quote_that_does_not_end_is_named(tmp_path: Path, line: int) -> None:
    path = tmp_path / "b.csv"
    path.write_text(HEADER * (line - 1) + '"' + "5,ChatGPT,472,18,490,Conversation log\n" * 5000)
    with pytest.raises(TraceError, match=r"b.csv, line \d+: field larger than field limit") as told:
        read_burstgpt(path)
    assert len(str(told.value).splitlines()) == 1
