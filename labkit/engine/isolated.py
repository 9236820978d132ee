"""A pass whose errors stay with the request that causes them."""

from __future__ import annotations

from collections.abc import Sequence

from labkit.engine.passes import Passes
from labkit.engine.sequence import Answer
from labkit.model.rows import Part


def isolated(
    passes: Passes, parts: Sequence[Part], greedy: Sequence[bool]
) -> Sequence[Answer | Exception]:
    """The answers of a pass. greedy: whether each part needs no logits.

    Where the pass fails, each part runs alone, and those that fail again get their error as the
    answer. Slots of parts that failed are as before. An interrupt from outside goes through.
    """
    if not parts:
        return []
    try:
        return passes.answers(parts, greedy)
    except BaseException as error:
        _take_back(passes, parts)
        if not isinstance(error, Exception):
            raise
        if len(parts) == 1:
            return [error]
    alone = (isolated(passes, [part], [one]) for part, one in zip(parts, greedy, strict=True))
    return [answer for answers in alone for answer in answers]


def _take_back(passes: Passes, parts: Sequence[Part]) -> None:
    for part in parts:
        if passes.cache.length(part.slot) > part.start:
            passes.cache.truncate(part.slot, part.start)
