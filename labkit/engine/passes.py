"""Passes of a decoder over the next rows of one request or several."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labkit.engine.sequence import Answer, Request
from labkit.errors import ParameterError
from labkit.model.cache.table import Cache
from labkit.model.forward import Forward, Greedy, Traced, offers
from labkit.model.rows import Part, Rows, check_streams, fill_streams
from labkit.model.sampling import likeliest


class Passes:
    """A decoder and a cache. A pass uses the fastest capability that the decoder offers."""

    def __init__(self, decoder: Forward, cache: Cache) -> None:
        self.decoder, self.cache = decoder, cache
        self._greedy = offers(decoder, Greedy)
        self._traced = offers(decoder, Traced)

    def step(self, requests: Sequence[Request]) -> list[list[int]]:
        """One pass over the next rows of all requests; the new output tokens of each."""
        if not requests:
            return []
        parts = [request.plan() for request in requests]
        answers = self.answers(parts, [request.greedy for request in requests])
        return [request.take(answer) for request, answer in zip(requests, answers, strict=True)]

    def answers(self, parts: Sequence[Part], greedy: Sequence[bool]) -> list[Answer]:
        """One pass; logits only where a part needs them. greedy: whether each part needs none."""
        return self.greedy(parts) if all(greedy) else self.logits(parts)

    def greedy(self, parts: Sequence[Part]) -> list[Answer]:
        """One pass; for each part the likeliest token after each wanted row."""
        if self._greedy is not None:
            return [Answer(tokens) for tokens in self._greedy.greedy(parts, self.cache)]
        return [Answer(likeliest(logits)) for logits in self._logits(parts)]

    def logits(self, parts: Sequence[Part]) -> list[Answer]:
        """One pass; for each part the logits of its wanted rows."""
        return [Answer([], logits) for logits in self._logits(parts)]

    def _logits(self, parts: Sequence[Part]) -> Sequence[Tensor]:
        """For each part, the logits of its wanted rows, (wanted, vocab)."""
        logits = self._run(Rows.of(parts), parts)
        return torch.split(logits, [part.wanted for part in parts])

    def _run(self, rows: Rows, parts: Sequence[Part]) -> Tensor:
        """The wanted logits of a pass; also fills the `streams` of parts that have them."""
        if all(part.streams is None for part in parts):
            return self.decoder(rows, self.cache)
        check_streams(parts, self.decoder.config.hidden_size)
        logits, streams = traced(self._traced, self.decoder).traced(rows, self.cache)
        fill_streams(parts, rows, streams)
        return logits


def traced(found: Traced | None, decoder: object) -> Traced:
    """`found`; ParameterError where it is None, because the decoder gives no streams."""
    if found is None:
        raise ParameterError(
            f"{type(decoder).__name__} gives no streams: it needs `traced`, as the plain and the "
            "fused decoder have."
        )
    return found
