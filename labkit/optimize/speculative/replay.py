"""Speculation over an answer that is known already: acceptance and passes without the target.

Because speculation never changes the answer, a draft can be judged on one that plain decoding has
given: the draft and the control do what they would do, and a pass costs nothing. With measured row
costs this is the prediction before the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from labkit.errors import ParameterError
from labkit.model.config import ModelConfig
from labkit.model.rows import Rows
from labkit.optimize.speculative.accounting import Accounting
from labkit.optimize.speculative.control import Control
from labkit.optimize.speculative.draft import Draft
from labkit.optimize.speculative.request import speculate


class _Length:
    """A cache that holds nothing but how long it is."""

    slots, window, sinks, nbytes = 1, None, 0, 0

    def __init__(self) -> None:
        self._length = 0

    def reserve(self, rows: Rows) -> None:
        self._length = rows.spans[0].end

    def append(self, layer: int, rows: Rows, keys: Tensor, values: Tensor) -> None:
        raise NotImplementedError

    read = fork = append

    def truncate(self, slot: int, length: int) -> None:
        self._length = length

    def keep(self, slot: int, start: int, rows: Sequence[int]) -> None:
        self._length = start + len(rows)

    def length(self, slot: int) -> int:
        return self._length


class _Known:
    """A target that always wants the next token of a known text."""

    dtype, device = torch.float32, "cpu"

    def __init__(
        self, config: ModelConfig, text: Sequence[int], streams: Tensor | None = None
    ) -> None:
        self.config, self._streams = config, streams
        self._next = torch.tensor([*text[1:], 0])

    def __call__(self, rows: Rows, cache: Any) -> Tensor:
        cache.reserve(rows)
        wanted = self._next[rows.positions[rows.wanted]]
        logits = torch.zeros(len(wanted), self.config.vocab_size)
        return logits.scatter_(1, wanted[:, None], 1.0)

    def traced(self, rows: Rows, cache: Any) -> tuple[Tensor, Tensor]:
        if self._streams is None:
            raise ParameterError("a draft that reads streams is replayed on the text's streams.")
        # Rows of a wrong draft get streams of the text: they are taken back unseen.
        return self(rows, cache), self._streams[rows.positions]

    def new_cache(self, slots: int, capacity: int) -> _Length:
        return _Length()


def replay(
    config: ModelConfig,
    draft: Draft,
    prompt_ids: Sequence[int],
    answer: Sequence[int],
    control: Control | None = None,
    accounting: Accounting | None = None,
    streams: Tensor | None = None,
) -> Accounting:
    """What a draft would have done while the target gave `answer`, its greedy answer.

    streams (prompt + answer, hidden): the target's, for a draft that reads them.
    """
    accounting = accounting if accounting is not None else Accounting()
    known = _Known(config, [*prompt_ids, *answer], streams)
    given = list(
        speculate(known, draft, prompt_ids, len(answer), control=control, accounting=accounting)
    )
    assert given == list(answer), "a replay must give the known answer"
    return accounting
