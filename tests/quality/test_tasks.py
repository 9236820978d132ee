"""The share of right answers, with its interval, of anything that answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from labkit.quality.tasks import Score, answer_of, asking, score
from labkit.workload.questions import short
from tests.tiny import tiny_decoder

END = 3


class Letters:
    """A tokenizer of characters, with an end of answer."""

    chat_template, eos_token_id = None, END

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [*map(ord, text)]

    def decode(self, tokens: list[int]) -> str:
        return "".join(map(chr, tokens))


@pytest.mark.parametrize(
    ("right", "asked", "low", "high"),
    [(0, 10, 0, 0.2775), (10, 10, 0.7225, 1), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662)],
)
def test_the_interval_is_wilsons(right: int, asked: int, low: float, high: float) -> None:
    """The last is Newcombe's example (1998, Statistics in Medicine 17, table I)."""
    found = Score(right, asked)
    assert found.interval == pytest.approx((low, high), abs=1e-4)
    told = found.told()
    assert (told["score_low"], told["score"], told["score_high"]) == pytest.approx(
        (low, right / asked, high), abs=1e-4
    )
    assert (told["right"], told["asked"]) == (right, asked)


def test_each_kind_has_its_score_and_all_together() -> None:
    questions = short(4)
    answers = {one.prompt: one.expected[0] for one in questions if one.kind == "sum"}

    def ask(prompt: Sequence[int], new_tokens: int) -> list[int]:
        text = answers.get("".join(map(chr, prompt)), "no")
        return [*map(ord, f" {text}"), END, *map(ord, "999")]

    found = score(ask, Letters(), questions)
    assert found == {"sum": Score(4, 4), "lookup": Score(0, 4), "all": Score(4, 8)}


def test_what_comes_after_the_end_of_an_answer_does_not_count() -> None:
    tokenizer: Any = Letters()
    assert answer_of([65, END, 66], tokenizer) == "A"
    assert answer_of([65, 66], tokenizer) == "AB"


def test_a_decoder_answers_as_it_generates() -> None:
    decoder = tiny_decoder()
    assert len(asking(decoder)([1, 2, 3], 5)) == 5


def test_no_question_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        score(lambda prompt, new_tokens: [], Letters(), [])
