"""Several requests as one trace, against timestamps written by hand."""

from __future__ import annotations

import pytest

from labkit.bench.wave import Wave
from labkit.timing.trace import Trace


def wave(*times: tuple[float, ...]) -> Wave:
    return Wave.of([Trace(1.0, each, 4, tuple(range(len(each)))) for each in times])


def test_the_wall_window_ends_with_the_last_token_of_all() -> None:
    found = wave((2.0, 3.0, 4.0), (3.0, 5.0))
    assert found.times == (2.0, 3.0, 3.0, 4.0, 5.0)
    assert (found.due, found.prompt_tokens, found.e2e_latency) == (1.0, 8, 4.0)
    assert found.seconds_a_token == pytest.approx(4.0 / 5)


def test_in_step_every_token_after_the_first_counts() -> None:
    found = wave(*[(2.0 + n / 1000, 2.5 + n / 1000, 3.0 + n / 1000) for n in range(16)])
    assert found.answering == pytest.approx(0.5 / 16)
    assert wave((2.0, 2.5, 3.0)).answering == pytest.approx(0.5)


def test_only_the_time_counts_in_which_all_answer() -> None:
    early = (2.0, 2.5, 3.0, 4.0, 5.0)  # one token a second while the other answers
    late = (3.0, 3.5, 4.0, 4.5, 5.0, 9.0)
    found = wave(early, late)
    assert found.answering == pytest.approx(1 / (1 + 2))


@pytest.mark.parametrize(
    "times", [[(2.0,), (2.0,)], [(2.0, 3.0), (4.0, 5.0)], [(2.0, 3.0), (3.0,)]]
)
def test_where_they_never_answer_together_there_is_no_such_rate(times: list) -> None:
    assert wave(*times).answering is None


def test_the_requests_are_kept_and_nothing_twice() -> None:
    found = wave((2.0,), (3.0,))
    assert [one.times for one in found.each] == [(2.0,), (3.0,)]
    assert found.to_dict() == {"each": [one.to_dict() for one in found.each]}
    with pytest.raises(ValueError, match="at least one timestamp"):
        Wave.of([])
