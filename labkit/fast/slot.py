"""The place of one stream: a slot of a paged cache, and the prefix cache of the streams before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from labkit.base.device import threads
from labkit.engine.passes import Passes
from labkit.engine.prefix import PrefixCache, PrefixKey
from labkit.engine.scheduler import blocks_of
from labkit.engine.sequence import Decoding
from labkit.errors import ParameterError
from labkit.model.cache.paged import BLOCK_SIZE, PagedCache
from labkit.model.cache.table import Cache
from labkit.model.forward import Forward, Paged, offers

_CONTEXTS = 2  # of blocks: one for the stream, one for what the prefix cache keeps


class Slot:
    """Runs one request at a time, each with what the cache has of its prompt.

    context: the most tokens of a request. torch_threads: for its passes; None leaves their number.
    A pass that is broken off, by Ctrl-C or by an error, may leave a cache half changed: then it is
    made anew, and earlier prompts are forgotten. Raises ParameterError for a decoder without a
    paged cache.
    """

    def __init__(self, decoder: Forward, context: int, torch_threads: int | None = None) -> None:
        paged = offers(decoder, Paged)
        if paged is None:
            raise ParameterError(f"{type(decoder).__name__} has no paged cache.")
        self._decoder, self._paged = decoder, paged
        self._blocks = _CONTEXTS * blocks_of(context, BLOCK_SIZE)
        self._threads = torch_threads
        self._inside = False  # something that changes the cache
        self._forget()

    def _forget(self) -> None:
        self.cache: PagedCache = self._paged.new_paged_cache(1, self._blocks)
        self.prefix = PrefixCache(self.cache, PrefixKey("", ""))  # one model, this process alone
        self._passes = Passes(self._decoder, self.cache)
        self._inside = False

    def begin(
        self, prompt: Sequence[int], make: Callable[[Cache], Decoding]
    ) -> tuple[Decoding, int]:
        """A request in the slot, and how many tokens of its prompt the cache had."""
        if self._inside:
            self._forget()
        request = make(self.cache)
        self._inside = True
        found = self.prefix.match(prompt)
        read = len(found) * BLOCK_SIZE
        if found:
            self.cache.adopt(0, found, read)
        request.move(0, read)
        self._inside = False
        return request, read

    def step(self, request: Decoding) -> list[int]:
        """One pass; the new tokens."""
        self._inside = True
        with threads(self._threads):
            (tokens,) = self._passes.step([request])
        self._inside = False
        return tokens

    def end(self, request: Decoding, yielded: int) -> None:
        """Empty the slot after so many tokens; later prompts find its whole blocks."""
        if self._inside:
            self._forget()
            return
        self._inside = True
        request.finish(yielded)
        self.prefix.publish(0, request.context)
        self.cache.release(0)
        self._inside = False
