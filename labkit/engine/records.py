"""What each pass was made of: the record that the timeline, the statistics and the tests read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

from labkit.errors import ParameterError
from labkit.model.cache.blocks import Blocks


class RequestRows(NamedTuple):
    """The rows of one request in one pass.

    request: its number. prefill: rows of its context that are read, also those that are computed
    again after a preemption. decode: the last token and the drafted ones behind it. wanted: rows
    whose output it asked for.
    """

    request: int
    prefill: int
    decode: int
    wanted: int


@dataclass(frozen=True, slots=True)
class PassRecord:
    """One pass: when it ran, whose rows it had, and what the engine held when it ended.

    start, end: seconds of the monotonic clock. rows: in the order of the pass, each request once.
    queue: requests that wait, admitted before or not. blocks_held, blocks_cached, blocks_free: all
    blocks of the paged cache. preempted, cancelled: requests that lost their slot before the pass.
    own: seconds that the engine itself took for it: planning, sampling, text.
    Raises ValueError for a record that contradicts itself.
    """

    start: float
    end: float
    rows: tuple[RequestRows, ...]
    queue: int = 0
    blocks_held: int = 0
    blocks_cached: int = 0
    blocks_free: int = 0
    preempted: tuple[int, ...] = ()
    cancelled: tuple[int, ...] = ()
    own: float = 0.0

    def __post_init__(self) -> None:
        if not self.end >= self.start:
            raise ValueError(f"a pass cannot end at {self.end} s and start at {self.start} s.")
        requests: set[int] = set()  # in one go over the rows: the engine makes one every pass
        for request, prefill, decode, wanted in self.rows:
            requests.add(request)
            if not (prefill >= 0 and decode >= 0 and 0 <= wanted <= prefill + decode):
                raise ValueError(f"a pass has rows from 0 on, and wants no more: {self.rows}.")
        if len(requests) != len(self.rows):
            raise ValueError(f"a request stands twice in one pass: {self.rows}.")
        if min(self.queue, self.blocks_held, self.blocks_cached, self.blocks_free) < 0:
            raise ValueError(f"a number of a pass is below 0: {self}.")

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def prefill(self) -> int:
        """Rows of prompts, of all requests."""
        return sum(one.prefill for one in self.rows)

    @property
    def decode(self) -> int:
        """Rows of outputs, of all requests."""
        return sum(one.decode for one in self.rows)

    @property
    def blocks(self) -> int:
        """All blocks of the cache; the same in every record of one engine."""
        return self.blocks_held + self.blocks_cached + self.blocks_free

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the traces folder of a run."""
        return asdict(self) | {"rows": [one._asdict() for one in self.rows]}


def mean_rows(records: Iterable[PassRecord]) -> float:
    """Rows of a pass, on average over passes; 0 where there was none."""
    counts = [one.prefill + one.decode for one in records]
    return sum(counts) / len(counts) if counts else 0.0


def busy_seconds(records: Iterable[PassRecord]) -> float:
    """Seconds within passes: the rest of a run is waiting, and the engine's own work."""
    return sum(one.seconds for one in records)


class Recorder:
    """Keeps the records of the last passes of an engine.

    most: so many. last: makes the newest record; a record is made when somebody asks for it.
    preempted, cancelled: numbers of those that lost their slot since the last pass. Raises
    ParameterError for a number below 0.
    """

    def __init__(self, book: Blocks, most: int) -> None:
        if most < 0:
            raise ParameterError(f"records of {most} passes: allowed are 0 and more.")
        self.last: Callable[[], PassRecord] | None = None
        self.preempted: list[int] = []
        self.cancelled: list[int] = []
        self._book, self._made = book, deque[Callable[[], PassRecord]](maxlen=most)

    def held(self, queue: int) -> tuple[int, int, int, int]:
        """What the engine holds now. queue: requests that wait."""
        return queue, self._book.held, self._book.cached, self._book.free

    def note(
        self,
        started: float,
        ended: float,
        rows: Sequence[RequestRows],
        held: tuple[int, int, int, int],
        own: float,
    ) -> None:
        """A pass was run. held: as `held` gave it when it ended."""
        lost, gone = tuple(self.preempted), tuple(self.cancelled)
        self.last = partial(PassRecord, started, ended, tuple(rows), *held, lost, gone, own)
        self.preempted, self.cancelled = [], []
        self._made.append(self.last)

    def made(self) -> list[PassRecord]:
        """The records, the oldest first."""
        return [make() for make in list(self._made)]
