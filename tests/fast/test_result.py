"""The figures of an answer and the line that tells them, from hand-written times."""

from __future__ import annotations

from typing import Any

import pytest

from labkit.fast.result import BEATEN, NOT_MEASURED, Piece, Result
from labkit.timing.trace import Trace


def result(tokens: int = 5, step: float = 0.01, **more: Any) -> Result:
    times = tuple(0.5 + step * at for at in range(tokens))
    trace = Trace(0.0, times, 40, tuple(range(tokens))) if tokens else None
    return Result("text", trace, 40, **more)


def test_rate_limit_and_share_follow_from_the_times() -> None:
    found = result(least=0.03)  # of the 0.04 s that four tokens took
    assert found.tokens_per_second == pytest.approx(100)
    assert found.limit == pytest.approx(4 / 0.03)
    assert found.fraction_of_limit == pytest.approx(0.75)
    assert found.line == "5 tokens, 100 tok/s, 75 % of the limit 133 tok/s"
    assert str(found) == found.line


def test_drafts_and_cached_tokens_are_told_where_there_are_any() -> None:
    found = result(least=0.03, proposed=12, accepted=3, cached=16)
    assert found.line == (
        "5 tokens, 100 tok/s, 75 % of the limit 133 tok/s, 3 of 12 drafts accepted, 16 of 40 "
        "prompt tokens cached"
    )


def test_no_share_above_the_limit_is_told() -> None:
    found = result(least=0.05)
    assert (found.limit, found.fraction_of_limit) == (None, None)
    assert found.line == f"5 tokens, 100 tok/s, {BEATEN}"


def test_a_machine_that_was_not_measured_has_no_limit() -> None:
    assert result().line == f"5 tokens, 100 tok/s, {NOT_MEASURED}"


@pytest.mark.parametrize(("tokens", "line"), [(0, "0 tokens"), (1, "1 token")])
def test_below_two_tokens_there_is_no_rate(tokens: int, line: str) -> None:
    found = result(tokens, least=1.0)
    assert (found.tokens_per_second, found.limit, found.fraction_of_limit) == (None, None, None)
    assert found.line == line


def test_tokens_that_came_at_once_have_no_rate() -> None:
    assert result(3, step=0.0, least=1.0).line == "3 tokens"


def test_slow_answers_keep_their_digits() -> None:
    assert result(1500, step=1 / 3, least=100.0).line.startswith("1,500 tokens, 3 tok/s, 20 % of")


def test_a_piece_is_text_with_a_mark() -> None:
    piece = Piece("ab", True)
    assert (piece, piece + "c", piece.drafted) == ("ab", "abc", True)
    assert not Piece("x").drafted
