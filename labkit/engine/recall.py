"""Answers from the response cache, for the requests of an engine."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from labkit.engine.responses import ResponseCache, ResponseKey, StoredAnswer
from labkit.engine.served import Handle, Sampling, ServedRequest


@dataclass(frozen=True)
class Recall:
    """A response cache, and what all answers of an engine follow from.

    weights, adapter: as in ResponseKey. A request's prefix_key, where it has one, names another
    adapter, and a salt; requests whose keys differ in anything share no answer.
    """

    cache: ResponseCache
    weights: str
    adapter: str = ""

    def key(self, request: ServedRequest) -> ResponseKey | None:
        """What the answer follows from; None for a request whose answer may not be kept.

        That is one that wants none reused, or whose sampler is not known or has no seed. A draft
        changes no greedy token, but with a seed others may be drawn. Make it once, when the request
        comes: its lists are its client's, who may change them later.
        """
        sampling = request.sampling
        if not request.reuse or not isinstance(sampling, Sampling) or not sampling.repeatable:
            return None
        if request.draft is not None and sampling.temperature > 0:
            return None
        weights, adapter, salt = self.weights, self.adapter, ""
        if (named := request.prefix_key) is not None:
            weights = repr((weights, named.model, named.weights))
            adapter, salt = named.adapter, named.salt
        return ResponseKey(
            weights, tuple(request.prompt), request.max_new_tokens,
            sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed,
            frozenset(request.stop_ids), frozenset(request.stop_strings), adapter, salt,
        )  # fmt: skip

    def find(self, key: ResponseKey | None) -> tuple[int, ...] | None:
        """The tokens that an identical request got."""
        found = None if key is None else self.cache.get(key)
        return (found.tokens or None) if found is not None else None

    def keep(self, key: ResponseKey | None, handle: Handle) -> None:
        """Keep a whole answer, where it may be kept. A cache that fails stops nobody: it warns."""
        if handle.finish is None or key is None:
            return
        try:
            self.cache.put(key, StoredAnswer(tuple(handle.tokens), str(handle.finish)))
        except Exception as error:
            message = f"an answer was not kept: {type(error).__name__}: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
