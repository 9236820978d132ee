"""Counting distinct answers: which prompts meet, and what is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from labkit.bench.answers import Answers, answers_of, companies, table_rows
from labkit.bench.wave import Wave
from labkit.timing.trace import Trace

Answer = Callable[[Sequence[Sequence[int]], int], tuple[int, ...]]


def engine(answer: Answer) -> Callable[..., Wave]:
    """An engine that gives prompt n of some prompts an answer of its own."""

    def ask(prompts: Sequence[Sequence[int]], new_tokens: int) -> Wave:
        return Wave.of(
            [Trace(0.0, (1.0,), 1, answer(prompts, number)) for number in range(len(prompts))]
        )

    return ask


@pytest.mark.parametrize("prompts", [1, 2, 5, 8])
@pytest.mark.parametrize("streams", [(1, 2, 4), (3,), (16, 2)])
def test_each_prompt_is_asked_once_at_each_number_and_one_in_all_streams(
    prompts: int, streams: tuple[int, ...]
) -> None:
    found = companies(prompts, streams)
    for size in streams:
        groups = [group for group in found if len(group) == size]
        same = [group for group in groups if len(set(group)) == 1 and size > 1]
        mixed = Counter(number for group in groups for number in group if number < prompts)
        if size == 1:
            assert groups == []
        else:
            assert len(same) == 1
            mixed -= Counter(same[0])
            assert mixed == Counter(range(prompts))
    assert all(len(group) in streams for group in found)


def test_an_engine_that_heeds_no_others_has_one_answer() -> None:
    ask = engine(lambda prompts, n: (prompts[n][0], 1))
    found = answers_of(ask, lambda number: [number], 4, 2, (1, 2, 4))
    assert found.distinct == [1, 1, 1, 1]
    assert found.differences == []
    [row] = table_rows({"ours": found})
    assert row == {
        "engine": "ours", "prompts": 4, "distinct answers, at most": 1, "on average": "1.00",
        "prompts with one answer": "4 of 4", "beside others as alone": "14 of 14",
        "first difference": "–",
    }  # fmt: skip


def test_an_engine_whose_answers_depend_on_the_others_is_counted() -> None:
    """From the second token on, the answer says how many prompts were asked together."""
    ask = engine(lambda prompts, n: (prompts[n][0], len(prompts), 0))
    found = answers_of(ask, lambda number: [number], 3, 3, (1, 2, 4))
    assert found.distinct == [3, 3, 3]
    assert set(found.differences) == {1}
    row = found.row()
    assert row["first difference"] == "token 2"
    assert row["prompts with one answer"] == "0 of 3"
    assert row["beside others as alone"] == f"0 of {sum(map(len, found.together))}"


def test_the_place_among_the_same_prompts_can_matter() -> None:
    ask = engine(lambda prompts, n: (n if len({p[0] for p in prompts}) == 1 else 0,))
    found = answers_of(ask, lambda number: [number], 2, 1, (4,))
    assert found.distinct == [4, 1]  # the first of them is the one that is asked four times at once
    assert found.to_dict()["distinct"] == [4, 1]


def test_answers_are_compared_whole() -> None:
    found = Answers(((1, 2, 3), (4,)), (((1, 2, 3), (1, 9, 3), (1, 9, 4)), ((4,),)))
    assert found.distinct == [3, 1]
    assert found.differences == [1, 1]
