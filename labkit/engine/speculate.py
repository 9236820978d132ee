"""A request with a draft: read the prompt; then draft, verify, remove what was rejected, repeat."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from operator import index

import torch
from torch import Tensor

from labkit.engine.accounting import Accounting
from labkit.engine.control import Control, Fixed
from labkit.engine.draft import NOTHING, Draft, FeatureDraft, Proposal
from labkit.engine.passes import Passes
from labkit.engine.sequence import Answer, Decoding, check_prompt
from labkit.engine.verify import accept_greedy, verifier
from labkit.errors import ParameterError
from labkit.model.cache.protocol import CacheError
from labkit.model.cache.table import Cache
from labkit.model.forward import Forward, Traced, offers
from labkit.model.rows import Part, depths
from labkit.model.sampling import Sample, greedy

DEFAULT_LENGTH = 4


def speculate(
    target: Forward,
    draft: Draft,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    *,
    sampler: Sample = greedy,
    stop_ids: Collection[int] = (),
    cache: Cache | None = None,
    control: Control | None = None,
    accounting: Accounting | None = None,
) -> Iterator[int]:
    """`generate` with a draft: the same tokens, several of them a pass where the draft was right.

    Greedy tokens are those of plain decoding. Sampled tokens follow the target's distribution; with
    a draft that gives no probabilities they are the same tokens that the seed gives without it.
    control: Fixed(4) if none is given; Adaptive weighs what rows cost here. accounting: filled on
    the way. Slot 0 of the cache must be empty, and holds at the end what `generate` leaves there.

    Raises at the call: ModelError for a prompt that cannot be served, ParameterError for a draft
    that does not fit the target, or for a cache that cannot remove rejected rows. A draft that
    raises later is dropped for this request, with a warning and a line in accounting.dropped; the
    output goes on.
    """
    check_prompt(target.config, prompt_ids, max_new_tokens)
    total = len(prompt_ids) + max_new_tokens
    draft.check(target.config)
    cache = target.new_cache(1, total) if cache is None else cache
    check_cache(cache, total)
    request = Speculation(
        cache, prompt_ids, max_new_tokens, draft, control or Fixed(DEFAULT_LENGTH),
        vocab=target.config.vocab_size,
        shows=shown_to(draft, target),
        sampler=sampler, stop_ids=frozenset(stop_ids),
        accounting=accounting if accounting is not None else Accounting(),
    )  # fmt: skip
    return _tokens(Passes(target, cache), request)


def _tokens(passes: Passes, request: Speculation) -> Iterator[int]:
    yielded = 0
    try:
        while not request.done:
            (tokens,) = passes.step([request])
            for token in tokens:
                yielded += 1
                yield token
    finally:
        request.finish(yielded)


def check_cache(cache: Cache, tokens: int) -> None:
    """Raise ParameterError unless the cache can remove rows in a request of so many tokens."""
    if cache.window is not None and cache.window < tokens:
        raise ParameterError(
            f"a cache with a window of {cache.window} cannot take drafts back once it has "
            f"dropped tokens, and this request comes to {tokens}: use a static cache."
        )
    try:
        cache.truncate(0, cache.length(0))
    except CacheError as error:
        raise ParameterError(f"this cache cannot take drafts back: {error}") from error


def shown_to(draft: Draft, target: Forward) -> Traced | None:
    """The target as one that shows its streams, for a draft that reads them; else None.

    Raises ParameterError where the draft reads streams and the target gives none.
    """
    if not isinstance(draft, FeatureDraft):
        return None
    shows = offers(target, Traced)
    if shows is None:
        raise ParameterError(
            f"{draft.name} reads the target's streams, and {type(target).__name__} gives none: "
            "it needs `traced`, as the plain and the fused decoder have."
        )
    return shows


class Speculation(Decoding):
    """Plain decoding with a draft: after the prompt, a pass has the last token and the guesses.

    vocab: a draft's tokens must be below it. shows: the target, where the draft reads its streams.
    """

    def __init__(
        self,
        cache: Cache,
        prompt_ids: Sequence[int],
        max_new_tokens: int,
        draft: Draft,
        control: Control,
        *,
        vocab: int,
        accounting: Accounting,
        shows: Traced | None = None,
        slot: int = 0,
        sampler: Sample = greedy,
        stop_ids: Collection[int] = (),
    ) -> None:
        super().__init__(
            cache, prompt_ids, max_new_tokens, slot=slot, sampler=sampler, stop_ids=stop_ids
        )
        self._draft: Draft | None = draft
        self._control, self._accounting, self._vocab = control, accounting, vocab
        self._verify = verifier(sampler)
        self._prompt = len(prompt_ids)
        self._streams = None if shows is None else _room(self.total, shows)
        self._offered, self._sent = NOTHING, NOTHING
        self._begun, self._reads = False, True  # shown to the draft; in the pass planned last
        self._began = 0.0

    def plan(self, limit: int | None = None) -> Part:
        """Rows of the prompt, as plain decoding has them; or the last token and the draft tokens
        after it, `limit` rows at most."""
        self._reads = not self._begun or self.unread > 1  # again, after it has left its slot
        if self._reads:
            return self._shown(super().plan(limit))
        self._offered = self._propose(None if limit is None else limit - 1)
        sent = self._control.choose(self._offered) if self._offered.tokens else 0
        self._sent = self._offered.cut(sent)
        if not self.cache.takes(self.slot, len(self._sent.tokens) + 1, bool(self._sent.parents)):
            self._sent = NOTHING
        self._began = time.perf_counter()
        rows, parents = [self.context[-1], *self._sent.tokens], self._sent.row_parents
        return self._shown(Part(self.slot, self.read, rows, len(rows), parents, guesses=True))

    def _shown(self, part: Part) -> Part:
        """The part with room for its streams, where the draft reads them."""
        if self._streams is not None:
            part.streams = self._streams[part.start : part.start + len(part.tokens)]
        return part

    def take(self, answer: Answer) -> list[int]:
        """The accepted tokens, and one of the target's own; a stop id is the last of them."""
        if self._reads:
            return self._take_read(answer)
        if answer.logits is None:
            tokens = accept_greedy(answer.tokens, self._sent)
        else:
            tokens = self._verify(answer.logits, self._sent)
        sent, accepted = len(self._sent.tokens), len(tokens) - 1
        if not self.stop_ids.isdisjoint(tokens):
            tokens = tokens[: next(i for i, t in enumerate(tokens) if t in self.stop_ids) + 1]
            self.done = True
        self.context += tokens
        self.done = self.done or len(self.context) == self.total
        self._take_back(sent, self._sent.rows_of(tokens[:-1]))
        spent = time.perf_counter() - self._began
        self._accounting.note(sent, min(accepted, len(tokens)), len(tokens), spent)
        self._control.learn(self._offered, sent, tokens)
        return tokens

    def _take_read(self, answer: Answer) -> list[int]:
        """The token after the prompt; none where the pass has not read all of it."""
        if self._upto == len(self.context):
            self._begin()
            self._accounting.drafted.append(False)
        return super().take(answer)

    def _begin(self) -> None:
        """Show the prompt to the draft, once."""
        if self._begun:
            return
        self._begun = True
        self._guard(lambda draft: draft.begin(self.context, self.total))
        if (streams := self._streams) is not None:
            self._guard(lambda draft: _watch(draft, streams))

    def _take_back(self, sent: int, rows: list[int]) -> None:
        """Keep only these rows of the pass in the slot. sent: how many guesses the pass had."""
        start = self.read
        if rows[-1] + 1 != len(rows):  # a path through a tree
            self.cache.keep(self.slot, start, rows)
            if self._streams is not None:
                at = torch.tensor(rows, device=self._streams.device)
                self._streams[start : start + len(rows)] = self._streams[start + at]
        elif len(rows) <= sent:
            self.cache.truncate(self.slot, start + len(rows))
        self.read = start + len(rows)

    def _propose(self, most: int | None) -> Proposal:
        """The draft's proposal, cut to what the request may still need, or NOTHING."""
        if self._draft is None:
            return NOTHING
        room = self.total - len(self.context) - 1
        limit = min(self._control.limit(), room if most is None else min(room, most))
        if limit < 1:
            return NOTHING
        began = time.perf_counter()
        proposal = self._guard(lambda draft: self._checked(draft, limit)) or NOTHING
        self._accounting.drafting += time.perf_counter() - began
        return proposal

    def _checked(self, draft: Draft, limit: int) -> Proposal:
        proposal = draft.propose(self.context, limit).cut(limit)
        tokens = [index(token) for token in proposal.tokens]  # raises where one is no integer
        if tokens and not 0 <= min(tokens) <= max(tokens) < self._vocab:
            raise ParameterError(f"a draft token lies outside 0..{self._vocab - 1}: {tokens}.")
        parents = proposal.row_parents
        if parents and len(parents) != len(tokens) + 1:
            raise ParameterError(f"{len(parents) - 1} parents for {len(tokens)} draft tokens.")
        depths(parents)  # raises where they are no tree
        _check_probs(proposal.probs, (len(tokens), self._vocab), tree=bool(parents))
        return proposal

    def _guard(self, ask: Callable[[Draft], Proposal | None]) -> Proposal | None:
        """Call the draft; one that raises is dropped, and the request goes on without it."""
        if self._draft is None:
            return None
        try:
            return ask(self._draft)
        except Exception as error:
            message = f"{self._draft.name} was dropped: {type(error).__name__}: {error}"
            self._draft = None
            self._accounting.dropped.append(message)
            warnings.warn(message, RuntimeWarning, stacklevel=2)
            return None

    def finish(self, yielded: int) -> None:
        """Leave the slot as plain decoding would after so many tokens, and end the draft.

        Call it also where the reader stopped early.
        """
        if not yielded:
            return
        length = self._prompt + yielded - 1
        if self.cache.length(self.slot) > length:
            self.cache.truncate(self.slot, length)
        self._guard(lambda draft: draft.end(self.context[: length + 1]))


def _check_probs(probs: Tensor | None, shape: tuple[int, int], tree: bool) -> None:
    """ParameterError for probabilities of another shape than (tokens, vocab), or of a tree."""
    if probs is not None and shape[0] and (tree or tuple(probs.shape) != shape):
        raise ParameterError(
            f"probabilities of shape {tuple(probs.shape)}: a chain has {shape}, a tree has none."
        )


def _room(tokens: int, target: Traced) -> Tensor:
    """Room for the streams of so many tokens, (tokens, hidden)."""
    return torch.empty(tokens, target.config.hidden_size, dtype=target.dtype, device=target.device)


def _watch(draft: Draft, streams: Tensor) -> None:
    """Give the memory of the streams to a draft that reads them."""
    if isinstance(draft, FeatureDraft):
        draft.watch(streams)
