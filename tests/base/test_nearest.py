"""Which known name was meant."""

from __future__ import annotations

from labkit.base.nearest import hint, nearest

KNOWN = {"rounds": 1, "row_rounds": 2, "prompt_tokens": 3}


def test_the_nearest_comes_first_and_only_so_many() -> None:
    assert nearest("round", KNOWN) == ["rounds"]
    assert nearest("row_round", KNOWN, 2) == ["row_rounds", "rounds"]
    assert nearest("xyz", KNOWN) == []
    assert nearest("rounds" * 10**6, KNOWN) == []  # at once


def test_a_hint_follows_a_sentence() -> None:
    assert hint([]) == ""
    assert hint(["rounds"]) == " Did you mean rounds?"
    assert hint(["rounds", "row_rounds"]) == " Did you mean rounds or row_rounds?"
