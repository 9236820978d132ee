"""A request in the engine: its decoding, its place in the queue, and the text that it shows."""

from __future__ import annotations

from labkit.engine.prefix import PrefixCache
from labkit.engine.scheduler import HORIZON, Running, Waiting
from labkit.engine.sequence import Decoding
from labkit.engine.served import Event, Finish, Handle
from labkit.engine.stops import Stops
from labkit.engine.text import Detokenizer


class Entry:
    """One request of an engine.

    horizon, passed: as in the scheduler's records. extra: drafted tokens that it may verify. reuse:
    whether it may begin with blocks of a prefix cache. published: whether its prompt is in that
    cache, or may not go there. reading: no token has come since it got its slot. answer: what an
    identical request got.
    """

    __slots__ = (
        "answer", "decoding", "extra", "handle", "horizon", "number", "passed", "published",
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
            known = prefix.known(decoding.context, self.handle.request.prefix_key)
            length = len(known) * prefix.cache.block_size
            shared = sum(prefix.cache.book.count(block) > 0 for block in known)
        return Waiting(
            self.number, length, written - length, decoding.total - written, self.horizon, shared,
            self.passed,
        )  # fmt: skip

    def recall(self) -> Event:
        """Deliver the answer that an identical request got, as if it had just been computed."""
        tokens = list(self.answer or ())
        self.decoding.context += tokens
        self.decoding.done = self.handle.recalled = True
        return self.deliver(tokens)

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
        text = ""
        if self.text is not None:
            text = self.stops.feed(self.text.end()) + self.stops.end()
        return self.handle.put([], text, finish)
