"""The target's side of speculation: its passes, and what they say should stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from labkit.model.cache import KVCache
from labkit.model.rows import Rows
from labkit.model.sampling import Sample, greedy
from labkit.optimize.speculative.draft import NOTHING, Proposal
from labkit.optimize.speculative.verify import accept_greedy, is_greedy, verifier


class Target:
    """A target's passes, each with the tokens that its rows say should stand.

    Where only the likeliest tokens matter and the target can tell them by itself, no logits are
    made. streams (tokens, hidden): filled with the residual streams of all tokens read, for a
    draft that reads them.
    """

    def __init__(
        self, target: Any, sampler: Sample = greedy, streams: Tensor | None = None
    ) -> None:
        self._target, self._streams, self._verify = target, streams, verifier(sampler)
        self._best = is_greedy(sampler) and hasattr(target, "best")

    def read(self, prompt: Sequence[int], cache: KVCache) -> int:
        """The first token after a prompt."""
        (token,) = self._pass(Rows.prefill(prompt), cache, NOTHING)
        return token

    def verify(self, last: int, proposal: Proposal, cache: KVCache) -> list[int]:
        """The tokens after the context's last one, which the cache does not hold yet."""
        tokens = [last, *proposal.tokens]
        tree = [-1, *(parent + 1 for parent in proposal.parents)] if proposal.parents else ()
        if self._best:
            found = self._target.continued(tokens, cache, 0, tree, self._streams, drafted=True)
            return accept_greedy(found, proposal)
        return self._pass(Rows.of([(0, cache.length(0), tokens, True, tree)]), cache, proposal)

    def keep(self, start: int, rows: list[int]) -> None:
        """Of the streams of a pass that began at `start`, those of these rows stand."""
        if self._streams is not None:
            at = torch.tensor(rows, device=self._streams.device)
            self._streams[start : start + len(rows)] = self._streams[start + at]

    def _pass(self, rows: Rows, cache: KVCache, proposal: Proposal) -> list[int]:
        if self._best:
            return accept_greedy(self._target.best(rows, cache, self._streams), proposal)
        if self._streams is not None:
            logits, streams = self._target.traced(rows, cache)
            start = rows.spans[0].start
            self._streams[start : start + len(rows)] = streams
        else:
            logits = self._target(rows, cache)
        return self._verify(logits, proposal)
