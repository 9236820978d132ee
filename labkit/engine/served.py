"""What an engine is asked to serve, and what it gives back."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from queue import SimpleQueue
from typing import NamedTuple

from labkit.engine.control import Control
from labkit.engine.draft import Draft
from labkit.engine.prefix_key import PrefixKey
from labkit.errors import LabkitError
from labkit.model.sampling import Sample, Sampler


class Refused(LabkitError):
    """A request that this engine can never serve."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; temperature 0 is greedy. As Sampler takes it.

    seed: None gives other tokens each time.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None

    @property
    def repeatable(self) -> bool:
        """Whether the same request gives the same tokens again."""
        return self.temperature == 0 or self.seed is not None

    def sampler(self) -> Sample:
        """A sampler with a random stream of its own; ParameterError for impossible settings."""
        seed = secrets.randbits(63) if self.seed is None else self.seed
        return Sampler(self.temperature, self.top_k, self.top_p, seed)


@dataclass(frozen=True)
class ServedRequest:
    """One prompt and how it is answered.

    sampling: settings, or a function from logits to a token that serves this request only. text:
    whether events have text; stop_strings need it. draft, control: for speculation, each of this
    request's own; control is Fixed(4) if none is given. drafted: the most tokens of a draft.
    reuse: whether blocks of earlier requests may be used, and the answer that an equal request got.
    prefix_key: instead of the engine's own; requests with other keys share nothing.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    sampling: Sampling | Sample = Sampling()
    stop_ids: Collection[int] = ()
    stop_strings: Sequence[str] = ()
    text: bool = False
    draft: Draft | None = None
    control: Control | None = None
    drafted: int = 8
    reuse: bool = True
    prefix_key: PrefixKey | None = None

    @property
    def has_text(self) -> bool:
        """Whether its tokens are turned into text."""
        return self.text or bool(self.stop_strings)


class Finish(StrEnum):
    """Why an answer ended."""

    STOP_ID = "stop_id"
    STOP_STRING = "stop_string"
    LENGTH = "length"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Event(NamedTuple):
    """New tokens of one answer.

    text: what they add, as far as it is certain and no part of a stop string. finish: set in the
    last event of an answer, and only there.
    """

    number: int
    tokens: list[int]
    text: str = ""
    finish: Finish | None = None


class Handle:
    """A request that was submitted, as its client sees it.

    events: the client's own queue, which the engine never waits for.
    error: what went wrong where finish is FAILED. hits: tokens of the context that were not
    computed when it last got a slot. preempted: how often it lost its slot. recalled: whether its
    answer is that of an identical request.
    """

    def __init__(self, number: int, request: ServedRequest, cancel: Callable[[int], None]) -> None:
        self.number, self.request = number, request
        self.events: SimpleQueue[Event] = SimpleQueue()
        self._tokens: list[int] = []
        self.finish: Finish | None = None
        self.error: Exception | None = None
        self.hits = self.preempted = 0
        self.recalled = False
        self._cancel = cancel

    @property
    def tokens(self) -> list[int]:
        """The answer so far; a list of the caller's own."""
        return self._tokens.copy()

    def cancel(self) -> None:
        """End the request; at any moment, from any thread. One that is over stays as it is."""
        self._cancel(self.number)

    def put(self, tokens: list[int], text: str = "", finish: Finish | None = None) -> Event:
        """For the engine: new tokens, or the end."""
        event = Event(self.number, tokens, text, finish)
        self._tokens += tokens
        self.finish = finish
        self.events.put(event)
        return event

    def text(self) -> str:
        """The text of all events that nobody has taken from the queue yet; takes them."""
        pieces = []
        while not self.events.empty():
            pieces.append(self.events.get().text)
        return "".join(pieces)
