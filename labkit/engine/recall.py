"""Answers from the response cache, for the requests of an engine."""

from __future__ import annotations

from dataclasses import dataclass

from labkit.engine.responses import ResponseCache, ResponseKey, StoredAnswer
from labkit.engine.served import Handle, Sampling, ServedRequest


@dataclass(frozen=True)
class Recall:
    """A response cache, and what all answers of an engine follow from.

    weights, adapter: as in ResponseKey. A request's prefix_key, where it has one, names another
    adapter, and a salt.
    """

    cache: ResponseCache
    weights: str
    adapter: str = ""

    def key(self, request: ServedRequest) -> ResponseKey | None:
        """What the answer follows from; None for a request whose answer may not be kept.

        That is one that wants none reused, or whose sampler is not known or has no seed. A draft
        changes no greedy token, but with a seed others may be drawn.
        """
        sampling = request.sampling
        if not request.reuse or not isinstance(sampling, Sampling) or not sampling.repeatable:
            return None
        if request.draft is not None and sampling.temperature > 0:
            return None
        named = request.prefix_key
        return ResponseKey(
            self.weights, tuple(request.prompt), request.max_new_tokens,
            sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed,
            frozenset(request.stop_ids), frozenset(request.stop_strings),
            self.adapter if named is None else named.adapter, "" if named is None else named.salt,
        )  # fmt: skip

    def find(self, request: ServedRequest) -> tuple[int, ...] | None:
        """The tokens that an identical request got."""
        key = self.key(request)
        found = None if key is None else self.cache.get(key)
        return None if found is None else found.tokens

    def keep(self, handle: Handle) -> None:
        """Keep a whole answer, where it may be kept."""
        if handle.finish is not None and (key := self.key(handle.request)) is not None:
            self.cache.put(key, StoredAnswer(tuple(handle.tokens), str(handle.finish)))
