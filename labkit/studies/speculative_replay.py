"""Speculation over an answer that is already known: acceptance and passes, without the target.

Speculation does not change a greedy answer. So a draft can be judged on an answer that plain
decoding has given. The draft and its control run as they would in a real request, and a pass takes
no time. With measured row costs this gives the prediction before the run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labkit.engine.accounting import Accounting
from labkit.engine.control import Control
from labkit.engine.draft import Draft
from labkit.engine.speculate import speculate
from labkit.errors import ParameterError
from labkit.model.cache.table import Cache
from labkit.model.config import ModelConfig
from labkit.model.rows import Rows


class _NoStore:
    """A store without keys and values; the table alone keeps the length of a sequence."""

    capacity, window, sinks, trees, nbytes = None, None, 0, True, 0

    def truncate(self, slot: int, length: int) -> None:
        """Nothing is stored, so nothing is dropped."""

    def move(self, slot: int, source: int, target: int) -> None:
        """Nothing is stored, so nothing moves."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Nothing is stored, so nothing is copied."""


class _Known:
    """A target whose likeliest token is the next token of a known text.

    streams (text, hidden): the hidden states for a draft that reads them.
    """

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(
        self, config: ModelConfig, text: Sequence[int], streams: Tensor | None = None
    ) -> None:
        self.config, self._streams = config, streams
        self._next = torch.tensor([*text[1:], 0])

    def __call__(self, rows: Rows, cache: Cache) -> Tensor:
        """1 for the next token of the text and 0 for all others, (wanted, vocab)."""
        cache.reserve(rows)
        wanted = self._next[rows.positions[rows.wanted]]
        logits = torch.zeros(len(wanted), self.config.vocab_size)
        return logits.scatter_(1, wanted[:, None], 1.0)

    def traced(self, rows: Rows, cache: Cache) -> tuple[Tensor, Tensor]:
        if self._streams is None:
            raise ParameterError(
                "this draft reads the target's streams, and the replay has none: give `streams`, "
                "one for each token of the prompt and the answer."
            )
        # Rejected rows get streams of the text too. No draft reads them: the request drops those
        # rows first.
        return self(rows, cache), self._streams[rows.positions]

    def new_cache(self, slots: int, capacity: int) -> Cache:
        return Cache(_NoStore(), slots)


def replay(
    config: ModelConfig,
    draft: Draft,
    prompt_ids: Sequence[int],
    answer: Sequence[int],
    control: Control | None = None,
    accounting: Accounting | None = None,
    streams: Tensor | None = None,
) -> Accounting:
    """The counts of a draft while the target gives its known greedy answer `answer`.

    streams (prompt + answer, hidden): the target's, for a draft that reads them. Raises
    ParameterError where such a draft is given none.
    """
    accounting = accounting if accounting is not None else Accounting()
    known = _Known(config, [*prompt_ids, *answer], streams)
    given = list(
        speculate(known, draft, prompt_ids, len(answer), control=control, accounting=accounting)
    )
    assert given == list(answer), "a replay must give the known answer"
    return accounting
