"""Texts of a chat as token ids: in the model's own template, or plain where it has none.

Two texts are wanted as tokens that the template puts around something that is not known yet: the
answer of an earlier request. So the template is rendered around a mark, and cut there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from labkit.errors import ParameterError

# A word that no template and no text of ours contains.
_MARK = "\u27e6labkit\u27e7"
_PLAIN = {"system": "{}\n\n", "user": "Question: {}\n", "assistant": "Answer: {}\n\n"}
Message = tuple[str, str]


def _rendered(tokenizer: Any, messages: Sequence[Message]) -> str:
    """The text of messages (role, content), up to where the answer begins."""
    if getattr(tokenizer, "chat_template", None) is None:
        said = "".join(_PLAIN[role].format(content) for role, content in messages)
        return f"{said}Answer:"
    chat = [{"role": role, "content": content} for role, content in messages]
    return str(tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))


def _encoded(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def _cut(tokenizer: Any, messages: Sequence[Message]) -> tuple[str, str]:
    """What stands before and after the mark. ParameterError where the template drops it."""
    parts = _rendered(tokenizer, messages).split(_MARK)
    if len(parts) != 2:
        raise ParameterError(
            f"the model's chat template shows an earlier answer {len(parts) - 1} times, where one "
            "is needed to make the turns of a chat from it."
        )
    return parts[0], parts[1]


def opening(tokenizer: Any, question: str, system: str = "") -> tuple[int, ...]:
    """Token ids of a first question, after a system prompt if one is given."""
    messages: list[Message] = [("system", system)] if system else []
    return _encoded(tokenizer, _rendered(tokenizer, [*messages, ("user", question)]))


def next_turn(tokenizer: Any, question: str) -> tuple[int, ...]:
    """Token ids that go between an answer and the next one: the question that follows."""
    messages = [("user", "Hello."), ("assistant", _MARK), ("user", question)]
    return _encoded(tokenizer, _cut(tokenizer, messages)[1])


def around(tokenizer: Any, before: str, after: str, system: str) -> tuple[tuple[int, ...], ...]:
    """Token ids of a question before and after the place where another request's answer goes."""
    messages = [("system", system), ("user", before + _MARK + after)]
    first, last = _cut(tokenizer, messages)
    return _encoded(tokenizer, first), _encoded(tokenizer, last)
