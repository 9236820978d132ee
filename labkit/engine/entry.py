"""A request in the engine: its decoding, its place in the queue, and the text that it shows."""

from __future__ import annotations

import contextlib

from labkit.engine.prefix import PrefixCache
from labkit.engine.responses import ResponseKey
from labkit.engine.scheduler import HORIZON, Running, Waiting
from labkit.engine.sequence import Decoding
from labkit.engine.served import Event, Finish, Handle
from labkit.engine.stops import Stops
from labkit.engine.text import Detokenizer


class Entry:
    """One request of an engine.

    horizon, passed: as in the scheduler's records. extra: drafted tokens that it may verify. reuse:
    whether it may begin with blocks of a prefix cache. published: whether its prompt is in that
    cache, or may not go there. reading: no token has come since it got its slot. key: of its answer
    in a response cache. answer: what an identical request got.
    """

    __slots__ = (
        "answer", "decoding", "extra", "handle", "horizon", "key", "number", "passed", "published",
        "reading", "reuse", "stops", "text",
    )  # fmt: skip

    def __init__(
        self,
        handle: Handle,
        decoding: Decoding,
        text: Detokenizer | None = None,
        extra: int = 0,
        reuse: bool = False,
    ) -> None:
        self.handle, self.number, self.decoding = handle, handle.number, decoding
        self.text, self.stops = text, Stops(handle.request.stop_strings)
        self.extra, self.reuse = extra, reuse
        self.horizon, self.passed = HORIZON, 0
        self.published = not reuse
        self.key: ResponseKey | None = None
        self.answer: tuple[int, ...] | None = None
        self.reading = True

    def running(self) -> Running:
        """As the scheduler sees it in its slot."""
        decoding = self.decoding
        written, read = len(decoding.context), decoding.read
        return Running(
            self.number, read, written - read, decoding.total - written, self.horizon, self.extra
        )

    def waiting(self, prefix: PrefixCache | None) -> Waiting:
        """As the scheduler sees it in the queue, with what a prefix cache has in memory for it."""
        decoding, length, shared = self.decoding, 0, 0
        written = len(decoding.context)
        if prefix is not None and self.reuse:
            with contextlib.suppress(Exception):  # `begin` raises it too: then this request fails
                known = prefix.known(decoding.context, self.handle.request.prefix_key)
                shared = sum(prefix.cache.book.count(block) > 0 for block in known)
                length = len(known) * prefix.cache.block_size
        return Waiting(
            self.number, length, written - length, decoding.total - written, self.horizon, shared,
            self.passed,
        )  # fmt: skip

    def begin(self, slot: int, prefix: PrefixCache | None) -> None:
        """Go into an empty slot, with what a prefix cache has in memory and on disk."""
        read = 0
        if prefix is not None and self.reuse:
            hit = prefix.match(self.decoding.context, self.handle.request.prefix_key)
            read = len(hit) * prefix.cache.block_size
            if hit:
                prefix.cache.adopt(slot, hit, read)
        self.decoding.move(slot, read)
        self.handle.hits = read

    def publish(self, prefix: PrefixCache | None) -> None:
        """Offer the whole blocks of its slot to the requests that come."""
        assert prefix is not None
        decoding, key = self.decoding, self.handle.request.prefix_key
        prefix.publish(decoding.slot, decoding.context, key)
        self.published = True

    def recall(self, answer: tuple[int, ...]) -> Event:
        """Deliver the answer that an identical request got, as if it had just been computed."""
        tokens = list(answer)
        self.decoding.context += tokens
        self.decoding.done = self.handle.recalled = True
        try:
            return self.deliver(tokens)
        except Exception as error:
            return self.end(Finish.FAILED, error)

    def leave(self) -> None:
        """Its slot is taken away: what it has read must be read again."""
        self.decoding.read, self.reading = 0, True
        self.horizon *= 2
        self.published = not self.reuse
        self.handle.preempted += 1

    def deliver(self, tokens: list[int]) -> Event:
        """Put new tokens into the client's queue; those after a stop string are dropped."""
        decoding = self.decoding
        if self.text is None:
            finish = self._finish(tokens) if decoding.done else None
            return self.handle.put(tokens, "", finish)
        shown: list[str] = []
        for token in tokens:
            shown.append(self.stops.feed(self.text.feed(token)))
            if self.stops.stopped:
                break
        tokens = tokens[: len(shown)]
        if not self.stops.stopped and decoding.done:
            shown += [self.stops.feed(self.text.end()), self.stops.end()]
        finish = Finish.STOP_STRING if self.stops.stopped else None
        decoding.done = decoding.done or self.stops.stopped
        if decoding.done and finish is None:
            finish = self._finish(tokens)
        return self.handle.put(tokens, "".join(shown), finish)

    def _finish(self, tokens: list[int]) -> Finish:
        return Finish.STOP_ID if tokens[-1] in self.decoding.stop_ids else Finish.LENGTH

    def end(self, finish: Finish, error: Exception | None = None) -> Event:
        """The request is over without new tokens; text that was held back is still shown."""
        self.handle.error = error
        rest = ""
        if self.text is not None:
            with contextlib.suppress(Exception):  # a tokenizer that fails ends nobody else
                rest = self.stops.feed(self.text.end())
            rest += self.stops.end()
        return self.handle.put([], rest, finish)
