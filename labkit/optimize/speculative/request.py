"""One request with a draft: read the prompt, then draft, verify, take back, again and again."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from labkit.errors import ParameterError
from labkit.model.cache import CacheError, KVCache
from labkit.model.generate import Forward, check_prompt
from labkit.model.sampling import Sample, greedy
from labkit.optimize.speculative.accounting import Accounting
from labkit.optimize.speculative.control import Control, Fixed
from labkit.optimize.speculative.draft import NOTHING, Draft, FeatureDraft, Proposal
from labkit.optimize.speculative.target import Target

DEFAULT_LENGTH = 4


def speculate(
    target: Forward,
    draft: Draft,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    *,
    sampler: Sample = greedy,
    stop_ids: Collection[int] = (),
    cache: KVCache | None = None,
    control: Control | None = None,
    accounting: Accounting | None = None,
) -> Iterator[int]:
    """`generate` with a draft: the same tokens, several of them a pass where the draft was right.

    Greedy tokens are plain decoding's own; sampled ones follow the target's distribution, and with
    a draft without probabilities they are the very tokens that the same seed gives without it.
    control: Fixed(4) if none is given; Adaptive weighs what rows cost here. accounting is filled
    on the way. Slot 0 of the cache must be empty, and holds at the end what `generate` leaves.

    Raises at the call: ModelError for a prompt that cannot be served, ParameterError for a draft
    that does not fit the target or a cache that cannot take drafts back. A draft that raises later
    is dropped for this request, told in a warning and in accounting.dropped; the output goes on.
    """
    check_prompt(target.config, prompt_ids, max_new_tokens)
    total = len(prompt_ids) + max_new_tokens
    draft.check(target.config)
    cache = target.new_cache(1, total) if cache is None else cache
    check_cache(cache, total)
    run = _Request(
        target, draft, prompt_ids, total, cache, control or Fixed(DEFAULT_LENGTH),
        accounting if accounting is not None else Accounting(),
    )  # fmt: skip
    return run.stream(sampler, frozenset(stop_ids))


def check_cache(cache: KVCache, tokens: int) -> None:
    """Raise ParameterError unless the cache can take back rows until it has seen `tokens`."""
    if cache.window is not None and cache.window < tokens:
        raise ParameterError(
            f"a cache that keeps a window of {cache.window} cannot take drafts back once it has "
            f"dropped tokens, and this request comes to {tokens}: use a static cache."
        )
    try:
        cache.truncate(0, cache.length(0))
    except (AttributeError, CacheError, NotImplementedError) as error:
        raise ParameterError(f"this cache cannot take drafts back: {error}") from error


def check_features(target: Any, draft: Draft) -> None:
    """Raise ParameterError where a draft reads the target's streams and it shows none."""
    if isinstance(draft, FeatureDraft) and not hasattr(target, "traced"):
        raise ParameterError(
            f"{draft.name} reads the target's streams, and {type(target).__name__} shows none: "
            "it needs `traced`, as the plain and the fused decoder have."
        )


class _Request:
    """The state of one request; the cache always lacks the context's last token."""

    def __init__(
        self,
        target: Forward,
        draft: Draft,
        prompt_ids: Sequence[int],
        total: int,
        cache: KVCache,
        control: Control,
        accounting: Accounting,
    ) -> None:
        check_features(target, draft)
        self._target = target
        self._vocab = target.config.vocab_size
        self._draft: Draft | None = draft
        self._context, self._prompt, self._total = list(prompt_ids), len(prompt_ids), total
        self._cache, self._control, self._accounting = cache, control, accounting

    def stream(self, sampler: Sample, stop_ids: frozenset[int]) -> Iterator[int]:
        self._streams = self._room_for_streams()
        self._forward = Target(self._target, sampler, self._streams)
        self._stops = stop_ids
        yielded = 0
        try:
            tokens = [self._read_prompt()]
            while True:
                for token in tokens:
                    yielded += 1
                    yield token
                if token in stop_ids or len(self._context) == self._total:
                    return
                tokens = self._step()
        finally:
            self._finish(yielded)

    def _read_prompt(self) -> int:
        token = self._forward.read(self._context, self._cache)
        self._guard(lambda draft: draft.begin(self._context, self._total))
        if (streams := self._streams) is not None:
            self._guard(lambda draft: draft.watch(streams))  # type: ignore[attr-defined]
        self._context.append(token)
        self._accounting.drafted.append(False)
        return token

    def _step(self) -> list[int]:
        """One pass of the target: the tokens it gives, a stop id the last of them."""
        proposal = self._propose()
        sent = self._control.choose(proposal) if proposal.tokens else 0
        sending = proposal.cut(sent)
        began = time.perf_counter()
        tokens, sending = self._pass(sending)
        sent, accepted = len(sending.tokens), len(tokens) - 1
        if not self._stops.isdisjoint(tokens):
            tokens = tokens[: next(i for i, t in enumerate(tokens) if t in self._stops) + 1]
        self._context += tokens
        rows = sending.rows_of(tokens[:-1])
        self._take_back(sent, rows)
        spent = time.perf_counter() - began
        self._accounting.note(sent, min(accepted, len(tokens)), len(tokens), spent)
        self._control.learn(proposal, sent, tokens)
        return tokens

    def _take_back(self, sent: int, rows: list[int]) -> None:
        """Leave in the cache, of a pass that sent so many tokens, the rows that stand."""
        start = self._cache.length(0) - sent - 1
        if rows[-1] + 1 != len(rows):  # a path through a tree
            self._cache.keep(0, start, rows)
            self._forward.keep(start, rows)
        elif len(rows) <= sent:
            self._cache.truncate(0, start + len(rows))

    def _propose(self) -> Proposal:
        """What the draft offers, cut to what is left of the context; NOTHING where that is none."""
        if self._draft is None:
            return NOTHING
        limit = min(self._control.limit(), self._total - len(self._context) - 1)
        if limit < 1:
            return NOTHING
        began = time.perf_counter()
        proposal = self._guard(lambda draft: self._checked(draft, limit)) or NOTHING
        self._accounting.drafting += time.perf_counter() - began
        return proposal

    def _checked(self, draft: Draft, limit: int) -> Proposal:
        proposal = draft.propose(self._context, limit).cut(limit)
        tokens = proposal.tokens
        if tokens and not 0 <= min(tokens) <= max(tokens) < self._vocab:
            raise ParameterError(f"a draft token lies outside 0..{self._vocab - 1}: {tokens}.")
        return proposal

    def _pass(self, sending: Proposal) -> tuple[list[int], Proposal]:
        """A pass of the last token and the drafted ones: the tokens that follow, and what was sent,
        which is nothing where they do not fit."""
        try:
            return self._forward.verify(self._context[-1], sending, self._cache), sending
        except CacheError:
            if not sending.tokens:
                raise
            return self._pass(NOTHING)

    def _guard(self, ask: Callable[[Draft], Proposal | None]) -> Proposal | None:
        """Ask the draft; one that raises is dropped, and the request goes on without it."""
        if self._draft is None:
            return None
        try:
            return ask(self._draft)
        except Exception as error:
            told = f"{self._draft.name} was dropped: {type(error).__name__}: {error}"
            self._draft = None
            self._accounting.dropped.append(told)
            warnings.warn(told, RuntimeWarning, stacklevel=2)
            return None

    def _room_for_streams(self) -> Tensor | None:
        """For those of the whole context, where the draft reads them."""
        if not isinstance(self._draft, FeatureDraft):
            return None
        target: Any = self._target
        shape = self._total, target.config.hidden_size
        return torch.empty(shape, dtype=target.dtype, device=target.device)

    def _finish(self, yielded: int) -> None:
        """Leave the cache as plain decoding would, also where the reader stopped early."""
        if not yielded:
            return
        held = self._prompt + yielded - 1
        if self._cache.length(0) > held:
            self._cache.truncate(0, held)
        self._guard(lambda draft: draft.end(self._context[: held + 1]))
