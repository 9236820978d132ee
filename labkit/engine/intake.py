"""From what a client asks for to a request that an engine can run, or a reason why it cannot."""

from __future__ import annotations

from collections.abc import Collection
from numbers import Integral
from typing import Any

from labkit.engine.accounting import Accounting
from labkit.engine.control import Fixed
from labkit.engine.draft import FeatureDraft
from labkit.engine.entry import Entry
from labkit.engine.scheduler import blocks_of
from labkit.engine.sequence import Decoding, check_prompt
from labkit.engine.served import Handle, Refused, Sampling, ServedRequest
from labkit.engine.speculate import DEFAULT_LENGTH, Speculation, shown_to
from labkit.engine.text import detokenizer
from labkit.errors import ParameterError
from labkit.model.cache.paged import PagedCache
from labkit.model.forward import Forward


class Intake:
    """Makes the entries of an engine. tokenizer: None where no request can have text."""

    def __init__(self, decoder: Forward, cache: PagedCache, tokenizer: Any, prefix: bool) -> None:
        self._decoder, self._cache = decoder, cache
        self._tokenizer, self._prefix = tokenizer, prefix
        self._blocks = cache.book.total

    def check(self, request: ServedRequest) -> None:
        """Raise ModelError for a prompt that the model cannot serve, Refused for a request that the
        memory can never hold, ParameterError for impossible settings."""
        check_prompt(self._decoder.config, request.prompt, request.max_new_tokens)
        size = self._cache.block_size
        needed = blocks_of(len(request.prompt) + request.max_new_tokens - 1, size)
        if needed > self._blocks:
            raise Refused(
                f"{len(request.prompt)} prompt tokens and {request.max_new_tokens} new ones take "
                f"{needed} blocks of {size} positions; the engine has {self._blocks}. Shorten the "
                "prompt, or ask for fewer."
            )
        _check_stops(request)
        if request.drafted < 0:
            raise ParameterError(f"a draft cannot have {request.drafted} tokens.")
        if request.has_text and self._tokenizer is None:
            raise ParameterError("text and stop strings need an engine that has a tokenizer.")

    def entry(self, handle: Handle) -> Entry:
        """The engine's side of a request that was checked; ParameterError as `check`."""
        request = handle.request
        text = detokenizer(self._tokenizer) if request.has_text else None
        drafted = 0 if request.draft is None else request.drafted
        reads_streams = isinstance(request.draft, FeatureDraft)  # blocks of others have none
        reuse = self._prefix and request.reuse and not reads_streams
        return Entry(handle, self._decoding(request), text, drafted, reuse)

    def _decoding(self, request: ServedRequest) -> Decoding:
        sampling, prompt, most = request.sampling, request.prompt, request.max_new_tokens
        sampler = sampling.sampler() if isinstance(sampling, Sampling) else sampling
        if (draft := request.draft) is None:
            return Decoding(
                self._cache, prompt, most, slot=-1, sampler=sampler, stop_ids=request.stop_ids
            )
        draft.check(self._decoder.config)
        return Speculation(
            self._cache, prompt, most, draft, request.control or Fixed(DEFAULT_LENGTH),
            vocab=self._decoder.config.vocab_size, accounting=Accounting(),
            shows=shown_to(draft, self._decoder), slot=-1, sampler=sampler,
            stop_ids=request.stop_ids,
        )  # fmt: skip


def _check_stops(request: ServedRequest) -> None:
    """ParameterError for stop ids or stop strings that can be read once only, or that no token or
    text can be. Stops refuses empty texts."""
    for name, given in (("stop_ids", request.stop_ids), ("stop_strings", request.stop_strings)):
        if isinstance(given, str) or not isinstance(given, Collection):
            raise ParameterError(f"{name} {given!r:.60}: allowed is a list; none are ().")
    if any(not isinstance(one, Integral) or abs(one) >= 2**63 for one in request.stop_ids):
        raise ParameterError(f"stop_ids {request.stop_ids!r:.60}: allowed are token ids.")
