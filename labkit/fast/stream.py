"""The text of one answer, piece by piece, and its figures."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from labkit.engine.accounting import Accounting
from labkit.engine.sequence import Decoding
from labkit.engine.served import Finish
from labkit.engine.stops import Stops
from labkit.engine.text import detokenizer
from labkit.fast.result import Piece, Result
from labkit.fast.slot import Slot
from labkit.model.cache.table import Cache
from labkit.timing.trace import Trace

_UNKNOWN = "\ufffd"


@dataclass(frozen=True)
class Asked:
    """One prompt, and how it is answered.

    make: its request in a cache, with these counts of its drafts; None: it has no drafts. least: of
    passes, by their rows, after so many tokens, the seconds that they take at least. began: when
    it was asked, in seconds of the clock.
    """

    prompt: Sequence[int]
    make: Callable[[Cache], Decoding]
    account: Accounting | None
    stop: Sequence[str]
    tokenizer: Any
    least: Callable[[Mapping[int, int], int], float | None]
    began: float


class Stream(Iterator[Piece]):
    """Yields text as it comes. At its end, or wherever the reader stops, `result` has the figures.

    A piece ends where a character ends, however its bytes are cut into tokens; a character that the
    answer's end leaves incomplete is left out. An answer that is not read to its end is ended by
    `close`, or by the next stream of the same slot.
    """

    def __init__(self, slot: Slot, asked: Asked) -> None:
        self._slot, self._asked = slot, asked
        self._text, self._stops = detokenizer(asked.tokenizer), Stops(asked.stop)
        self._shown: list[str] = []
        self._tokens: list[int] = []
        self._times: list[float] = []
        self._passes: Counter[int] = Counter()
        self._cached, self._finish = 0, ""
        self._spent, self._since = time.perf_counter() - asked.began, 0.0
        self._pieces = self._run()

    def __next__(self) -> Piece:
        return next(self._pieces)

    def close(self) -> None:
        """End the answer here."""
        self._pieces.close()

    def read(self) -> str:
        """The text from here to the answer's end, in one piece."""
        return "".join(self)

    @property
    def result(self) -> Result:
        """The figures, so far where the answer is not over."""
        account, tokens = self._asked.account, tuple(self._tokens)
        prompt = len(self._asked.prompt)
        passes = self._passes if account is None else account.rows
        return Result(
            "".join(self._shown),
            Trace(0.0, tuple(self._times), prompt, tokens) if tokens else None,
            prompt, self._cached, self._finish, dict(passes),
            proposed=None if account is None else account.proposed,
            accepted=None if account is None else account.accepted,
            least=self._asked.least(passes, prompt + len(tokens) // 2) if passes else None,
        )  # fmt: skip

    def _run(self) -> Generator[Piece, None, None]:
        self._since = time.perf_counter()
        request, self._cached = self._slot.begin(self._asked.prompt, self._asked.make)
        try:
            while not request.done and not self._stops.stopped:
                first = not self._tokens
                tokens = self._slot.step(request)
                self._passes[1] += not first
                yield from self._taken(tokens)
            yield from self._rest(request)
        finally:
            self._slot.end(request, len(self._tokens))

    def _now(self) -> float:
        return self._spent + time.perf_counter() - self._since

    def _taken(self, tokens: Sequence[int]) -> Iterator[Piece]:
        """The text of a pass's tokens, up to a stop string."""
        at = self._now()
        for token in tokens:
            self._tokens.append(token)
            self._times.append(at)
            yield from self._shown_piece(self._stops.feed(self._text.feed(token)))
            if self._stops.stopped:
                return

    def _shown_piece(self, text: str) -> Iterator[Piece]:
        """A piece where there is text. Until the reader asks for more, the clock stands still."""
        if not text:
            return
        self._shown.append(text)
        account, at = self._asked.account, len(self._tokens) - 1
        drafted = account.drafted if account is not None else []
        self._spent = self._now()
        yield Piece(text, drafted[at] if at < len(drafted) else False)
        self._since = time.perf_counter()

    def _rest(self, request: Decoding) -> Iterator[Piece]:
        """What was held back, without the beginning of a character that never came."""
        if self._stops.stopped:
            self._finish = Finish.STOP_STRING
            return
        stopped = self._tokens[-1] in request.stop_ids
        self._finish = Finish.STOP_ID if stopped else Finish.LENGTH
        held = self._stops.feed(self._text.end().rstrip(_UNKNOWN))
        if self._stops.stopped:
            self._finish = Finish.STOP_STRING
        yield from self._shown_piece(held + self._stops.end())
