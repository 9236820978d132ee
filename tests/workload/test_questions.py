"""Questions: the same ones every time, and checks that take right answers and no others."""

from __future__ import annotations

import re

import pytest

from labkit.workload.questions import Question, of_tasks, short


class Letters:
    """A tokenizer of characters."""

    chat_template = None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [*([0] if add_special_tokens else []), *map(ord, text)]


def question(kind: str, *expected: str) -> Question:
    return Question("one", kind, "?", expected)


def test_short_questions_are_the_same_every_time_and_all_different() -> None:
    made = short(20)
    assert made == short(20) != short(20, seed=1)
    assert [one.kind for one in made] == ["sum"] * 20 + ["lookup"] * 20
    assert len({one.prompt for one in made}) == 40
    assert made[:3] == short(3)[:3]


def test_the_expected_answers_of_short_questions_are_true() -> None:
    for one in short(30):
        last = one.prompt.splitlines()[-1]
        if one.kind == "sum":
            assert sum(map(int, re.findall(r"\d+", last))) == int(one.expected[0])
        else:
            [name] = re.findall(r"does (\w+) work", last)
            assert f"{name} works in room {one.expected[0]}." in one.prompt


@pytest.mark.parametrize(
    ("kind", "expected", "answer", "right"),
    [
        ("sum", ["16"], " 16\n12 + 3", True),
        ("sum", ["16"], " 15, no, 16", False),
        ("sum", ["16"], " 160", False),
        ("sum", ["16"], "", False),
        ("lookup", ["734"], " 734.\nWhere", True),
        ("lookup", ["734"], " 73 or 734", False),
        ("arithmetic", ["30"], "240 / 4 = 60, so each gets 30 apples.", True),
        ("arithmetic", ["30"], "Each gets 30 of the 240.", False),
        ("arithmetic", ["10", "150"], "Both have 150 euros after 10 weeks.", True),
        ("arithmetic", ["10", "150"], "After 150 weeks.", False),
        ("arithmetic", ["13:05"], "It arrives at 13:05.", True),
        ("arithmetic", ["1500"], "That is 1,500.", True),
        ("extraction", ["flour", "12"], '[{"item": "Flour", "quantity": 12}]', True),
        ("extraction", ["flour", "12"], 'Here: {"a": {"b": ["12 kg", "white flour"]}} Done.', True),
        ("extraction", ["flour", "12"], '[{"item": "flour", "quantity": 120}]', False),
        ("extraction", ["flour", "12"], "flour, 12", False),
        ("extraction", ["flour"], '[{"item": "flo', False),
        ("extraction", ["38.5"], '[{"price": 38.50}]', True),
        ("extraction", ["38.5"], '[{"price": 38.05}]', False),
        ("extraction", ["09:00"], '[{"price": 9.0}]', False),
    ],
)
def test_an_answer_is_right_or_not(
    kind: str, expected: list[str], answer: str, right: bool
) -> None:
    assert question(kind, *expected).is_right(answer) == right


def test_the_expected_parts_of_extraction_stand_in_its_text() -> None:
    found = of_tasks(("extraction",))
    assert len(found) == 9
    for one in found:
        missing = [value for value in one.expected if value.removesuffix(".5") not in one.prompt]
        assert missing == []
        assert not one.is_right("I cannot do that.")


def test_tasks_whose_answer_cannot_be_checked_are_left_out() -> None:
    names = {one.name for one in of_tasks(("arithmetic", "edit_code"))}
    assert len(names) == 8
    assert "reason_walk" not in names  # there are several ways to tell the time
    assert {one.kind for one in of_tasks()} == {"arithmetic", "extraction"}
    assert len(of_tasks(held_out=True)) < len(of_tasks())


def test_short_questions_are_bare_text_and_others_are_asked_as_tasks() -> None:
    one = short(1)[0]
    assert one.ids(Letters()) == [*map(ord, one.prompt)]
    task = of_tasks(("arithmetic",))[0]
    assert task.ids(Letters()) == [0, *map(ord, task.prompt), ord("\n")]
    assert one.new_tokens < task.new_tokens
