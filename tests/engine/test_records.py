"""Records of passes: their sums, and what contradicts itself."""

from __future__ import annotations

import json

import pytest

from labkit.engine.records import PassRecord, RequestRows, busy_seconds, mean_rows

MIXED = PassRecord(
    start=1.0,
    end=1.5,
    rows=(RequestRows(7, 0, 1, 1), RequestRows(3, 16, 0, 0), RequestRows(9, 4, 1, 2)),
    queue=2,
    blocks_held=5,
    blocks_cached=3,
    blocks_free=2,
    preempted=(4,),
)


def test_a_record_counts_its_rows_and_blocks() -> None:
    assert (MIXED.prefill, MIXED.decode, MIXED.blocks) == (20, 2, 10)
    assert MIXED.seconds == 0.5


def test_sums_over_records() -> None:
    empty = PassRecord(2.0, 2.25, ())
    assert mean_rows([MIXED, empty]) == 11.0
    assert busy_seconds([MIXED, empty]) == 0.75
    assert (mean_rows([]), busy_seconds([])) == (0.0, 0.0)


def test_a_record_is_plain_values_for_a_file() -> None:
    plain = json.loads(json.dumps(MIXED.to_dict()))
    assert plain["rows"][1] == {"request": 3, "prefill": 16, "decode": 0, "wanted": 0}
    assert plain["preempted"] == [4]


@pytest.mark.parametrize(
    ("rows", "queue", "end"),
    [
        ((), 0, 0.5),
        ((), 0, float("nan")),
        ((), -1, 2.0),
        ((RequestRows(1, 0, 1, 1), RequestRows(1, 4, 0, 0)), 0, 2.0),
        ((RequestRows(1, 0, 1, 2),), 0, 2.0),
        ((RequestRows(1, -1, 2, 0),), 0, 2.0),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(
    rows: tuple[RequestRows, ...], queue: int, end: float
) -> None:
    with pytest.raises(ValueError, match="pass"):
        PassRecord(1.0, end, rows, queue)
