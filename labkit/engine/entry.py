"""A request in the engine: its decoding, its place in the queue, and the text that it shows."""

from __future__ import annotations

from labkit.engine.scheduler import HORIZON, Running, Waiting
from labkit.engine.sequence import Decoding
from labkit.engine.served import Event, Finish, Handle
from labkit.engine.stops import Stops
from labkit.engine.text import Detokenizer


class Entry:
    """One request of an engine.

    horizon, passed: as in the scheduler's records. extra: drafted tokens that it may verify. reuse:
    whether it may begin with blocks of a prefix cache. published: whether its prompt is in that
    cache, or may not go there.
    """

    __slots__ = (
        "decoding", "extra", "handle", "horizon", "number", "passed", "published", "reuse",
        "stops", "text",
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

    def running(self) -> Running:
        """As the scheduler sees it in its slot."""
        decoding = self.decoding
        written, read = len(decoding.context), decoding.read
        return Running(
            self.number, read, written - read, decoding.total - written, self.horizon, self.extra
        )

    def waiting(self, length: int, shared: int) -> Waiting:
        """As the scheduler sees it in the queue: a prefix cache has `length` of its tokens."""
        decoding = self.decoding
        written = len(decoding.context)
        return Waiting(
            self.number, length, written - length, decoding.total - written, self.horizon, shared,
            self.passed,
        )  # fmt: skip

    def leave(self) -> None:
        """Its slot is taken away: what it has read must be read again."""
        self.decoding.read = 0
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
