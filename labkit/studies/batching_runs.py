"""What notebook 07 times: passes of several requests, an engine, and the engine's passes alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from torch import Tensor

from labkit.engine.batching import BatchEngine
from labkit.engine.drive import Served, drive
from labkit.engine.passes import Passes
from labkit.engine.scheduler import Policy, blocks_of
from labkit.errors import ModelError, ParameterError
from labkit.model.cache.paged import BLOCK_SIZE, PagedCache
from labkit.model.cache.table import Cache
from labkit.model.forward import Forward, Paged, offers
from labkit.model.rows import Part, Rows
from labkit.timing.compare import Variant
from labkit.timing.trace import Trace
from labkit.workload.timed import TimedWorkload

PASSES = 8  # of one turn, after a first one that does not count
T = TypeVar("T")


def paged(decoder: Forward) -> Paged:
    """The decoder as one with a paged cache; ParameterError where it has none."""
    found = offers(decoder, Paged)
    if found is None:
        raise ParameterError(f"{type(decoder).__name__} has no paged cache: it cannot batch.")
    return found


def batch_name(batch: int) -> str:
    """The name of a pass of so many requests."""
    return "1 request" if batch == 1 else f"{batch} requests"


def decode_passes(
    decoder: Forward, prompts: Sequence[Sequence[int]], batches: Sequence[int]
) -> dict[str, Variant]:
    """Variants for `compare`: decode passes of the first 1, 2, ... of some requests.

    Each request has a slot with its own prompt, all but the last token, which is its row. The rows
    of a pass are dropped afterwards, so that all passes do the same.
    """
    blocks = sum(blocks_of(len(prompt), BLOCK_SIZE) for prompt in prompts)
    passes = Passes(decoder, paged(decoder).new_paged_cache(len(prompts), blocks))
    for slot, prompt in enumerate(prompts):
        passes.greedy([Part(slot, 0, prompt[:-1])])
    parts = [Part(n, len(prompt) - 1, prompt[-1:]) for n, prompt in enumerate(prompts)]
    return {batch_name(batch): _repeated(passes, parts[:batch]) for batch in batches}


def _repeated(passes: Passes, parts: Sequence[Part]) -> Variant:
    """A turn: every pass gives one token of each request. It is due when the first pass, which does
    not count, has ended."""

    def run(_: int) -> Trace:
        ends = []
        for _ in range(PASSES + 1):
            passes.greedy(parts)
            ends.append(time.perf_counter())
            for part in parts:
                passes.cache.truncate(part.slot, part.start)
        return Trace(ends[0], tuple(end for end in ends[1:] for _ in parts), parts[0].start)

    return run


class Taped:
    """A decoder that notes the parts of its greedy passes, so that they can be passed again."""

    def __init__(self, decoder: Forward) -> None:
        self.decoder, self.config = decoder, decoder.config
        self.tape: list[Sequence[Part]] = []
        self._passes: Passes | None = None

    def new_cache(self, slots: int, capacity: int) -> Cache:
        return self.decoder.new_cache(slots, capacity)

    def new_paged_cache(self, slots: int, blocks: int) -> PagedCache:
        return paged(self.decoder).new_paged_cache(slots, blocks)

    def __call__(self, rows: Rows, cache: Cache) -> Tensor:
        return self.decoder(rows, cache)

    def greedy(self, parts: Sequence[Part], cache: Cache) -> list[list[int]]:
        """As the decoder gives them."""
        self.tape.append(parts)
        if self._passes is None or self._passes.cache is not cache:
            self._passes = Passes(self.decoder, cache)
        return [answer.tokens for answer in self._passes.greedy(parts)]


def served(engine: BatchEngine, workload: TimedWorkload) -> Served:
    """A whole workload; ModelError where a request of it was not answered."""
    found = drive(engine, workload)
    if found.failed:
        number, reason = next(iter(found.failed.items()))
        raise ModelError(
            f"{workload.name}: {len(found.failed)} of {len(workload.requests)} requests were not "
            f"answered; request {number}: {reason}"
        )
    return found


def engine_for(
    decoder: Forward, slots: int, positions: int, policy: Policy, **more: Any
) -> BatchEngine:
    """An engine with memory for so many positions of all its slots together."""
    return BatchEngine(decoder, slots, blocks_of(positions, BLOCK_SIZE), policy=policy, **more)


@dataclass
class Serving:
    """An engine, and a second cache in which its passes run again without it.

    longest: positions of the longest request. found: of each workload by name, how it was served
    last. tapes: the parts of its passes.
    """

    decoder: Forward
    slots: int
    longest: int
    found: dict[str, Served] = field(default_factory=dict)
    tapes: dict[str, list[Sequence[Part]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        blocks = self.slots * blocks_of(self.longest, BLOCK_SIZE)
        self.taped = Taped(self.decoder)
        self.engine = BatchEngine(self.taped, self.slots, blocks)
        self.alone = Passes(self.decoder, paged(self.decoder).new_paged_cache(self.slots, blocks))

    def serve(self, workload: TimedWorkload) -> Trace:
        """Serve a workload; all its tokens as one trace."""
        self.taped.tape = []
        found = self.found[workload.name] = served(self.engine, workload)
        self.tapes[workload.name] = self.taped.tape
        return found.trace

    def again(self, name: str) -> Trace:
        """The passes of the last workload of this name, and nothing else; its TPOT is the time of
        all of them."""
        passes, cache = self.alone, self.alone.cache
        start = time.perf_counter()
        for parts in self.tapes[name]:
            for part in parts:
                if part.start == 0:  # a request begins where another one was
                    cache.truncate(part.slot, 0)
            passes.greedy(parts)
        end = time.perf_counter()
        for slot in range(self.slots):
            cache.truncate(slot, 0)
        return Trace(start, (start, end))


class Seen(Generic[T]):
    """What a variant's turns saw, beside its traces, by round; the first call is left out."""

    def __init__(self) -> None:
        self._found: dict[int, list[T]] = {}

    def note(self, number: int, one: T) -> T:
        """What a turn of round `number` saw; returns it."""
        if number:
            self._found.setdefault(number, []).append(one)
        return one

    def first(self, rounds: int) -> list[T]:
        """Of each round the first turn, without the control's. The first rounds, in order: those
        that a comparison kept."""
        return [turns[0] for turns in self.turns(rounds)]

    def turns(self, rounds: int) -> list[list[T]]:
        """All turns of the same rounds: two of a baseline, whose second one is the control."""
        return list(self._found.values())[:rounds]


def users_of(one: Served) -> dict[int, list[float]]:
    """By request: when it was due, when its first and its last token came, and their number."""
    return {
        number: [trace.due, trace.times[0], trace.times[-1], len(trace.times)]
        for number, trace in one.traces.items()
    }


def passes_of(one: Served) -> list[dict[str, Any]]:
    """What the passes of a workload were made of, as plain values."""
    return [record.to_dict() for record in one.passes]
