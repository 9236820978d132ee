"""The target's side of speculation: its passes, and what they say should stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from labkit.model.cache import KVCache
from labkit.model.rows import Rows
from labkit.model.sampling import Sample, greedy
from labkit.optimize.speculative.draft import NOTHING, Proposal
from labkit.optimize.speculative.verify import accept_greedy, is_greedy, verifier


class Target:
    """A target's passes, each with the tokens that its rows say should stand.

    Where only the likeliest tokens matter and the target can tell them by itself, no logits are
    made. features: the residual stream of the last pass, kept for a draft that reads it.
    """

    def __init__(self, target: Any, sampler: Sample = greedy, traced: bool = False) -> None:
        self._target, self._traced, self._verify = target, traced, verifier(sampler)
        self._best = is_greedy(sampler) and hasattr(target, "best")
        self.features: Tensor | None = None

    def read(self, prompt: Sequence[int], cache: KVCache) -> int:
        """The first token after a prompt."""
        (token,) = self._pass(Rows.prefill(prompt), cache, NOTHING)
        return token

    def verify(self, last: int, proposal: Proposal, cache: KVCache) -> list[int]:
        """The tokens after the context's last one, which the cache does not hold yet."""
        if not proposal.tokens and self._best and not self._traced:
            return [self._target.following(last, cache)]
        tree = [-1, *(parent + 1 for parent in proposal.parents)] if proposal.parents else ()
        part = (0, cache.length(0), [last, *proposal.tokens], True, tree)
        return self._pass(Rows.of([part]), cache, proposal)

    def _pass(self, rows: Rows, cache: KVCache, proposal: Proposal) -> list[int]:
        if self._best:
            best, self.features = self._target.best(rows, cache, self._traced)
            return accept_greedy(best, proposal)
        if self._traced:
            logits, self.features = self._target.traced(rows, cache)
        else:
            logits = self._target(rows, cache)
        return self._verify(logits, proposal)
