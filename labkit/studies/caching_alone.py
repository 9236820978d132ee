"""Two more measurements of notebook 06: what a prefix cache costs where it finds nothing, and how
soon a response cache answers."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from statistics import mean

from labkit.engine.batching import BatchEngine
from labkit.engine.disk_blocks import DiskBlocks
from labkit.engine.recall import Recall
from labkit.engine.responses import ResponseCache
from labkit.engine.served import Sampling, ServedRequest
from labkit.errors import LabkitError
from labkit.model.cache.paged import PagedCache
from labkit.studies.caching_served import ask, block_files, blocks_for, in_memory, with_disk
from labkit.studies.lab import Lab
from labkit.studies.speculative_target import Target
from labkit.timing.compare import Comparison
from labkit.timing.statistics import Ratio, interval
from labkit.timing.trace import Trace

OFF, ON, ON_DISK = "prefix cache off", "prefix cache on", "prefix cache on, with a disk tier"
COMPUTED, ANSWERED = "computed", "answered from the file"
_WEIGHTS = "the weights of this process"
_TEXT = 50_000  # the number of the first prompt
_FILLING = 20_000  # of those that fill the memory; their first tokens are others too
_ROWS = 256  # of a prompt in a pass, at least, where nobody answers
_SEEDED = 3  # requests that are sampled with a seed


@dataclass
class Alone:
    """Requests of so many tokens that are served one at a time, in each of the rounds.

    folder: for the files of caches.
    """

    lab: Lab
    target: Target
    folder: Path
    tokens: int
    new_tokens: int
    rounds: int


@dataclass
class NoHits(Alone):
    """Requests that share nothing, served alone by an engine without and with a prefix cache.

    Memory holds two requests, so that each one evicts the blocks of another: the cost of naming,
    publishing and evicting blocks, and with a disk tier of writing them. own: by way and round, the
    engine's own seconds of each turn, those of evicting included. behind: the processor seconds of
    the thread that writes blocks, meanwhile. written: files of evicted blocks, removed after each
    round.
    """

    own: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    behind: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    hits: int = 0
    written: int = 0
    _evicting: float = field(default=0.0, init=False)

    @cached_property
    def comparison(self) -> Comparison:
        """Without a prefix cache is the baseline."""
        blocks = blocks_for(self.tokens + self.new_tokens, 2)
        passes = self.tokens // _ROWS + 1 + self.new_tokens
        engines = {
            way: BatchEngine(self.target.decoder, 1, blocks, prefix=prefix, records=passes)
            for way, prefix in ((OFF, None), (ON, in_memory), (ON_DISK, with_disk(self.folder)))
        }
        runs = {way: partial(self._turn, way, engine) for way, engine in engines.items()}
        for engine in engines.values():
            self._time_evictions(engine.cache)
        for number in range(2):  # fill the memory first
            for run in runs.values():
                run(_FILLING + number)
        found = self.lab.compare(
            runs, OFF, self.rounds, {}, label="no hits", between=self._remove_files
        )
        clocks = {"own": self.own, "behind": self.behind}
        told = {
            name: {f"{way}, round {number}": times for (way, number), times in clock.items()}
            for name, clock in clocks.items()
        }
        self.lab.keep_samples("no_hits", found.to_dict() | told)
        return found

    def _time_evictions(self, cache: PagedCache) -> None:
        """They happen within passes, when these take blocks: the engine's clock leaves them out."""
        if (evict := cache.reclaim) is None:
            return

        def reclaim(count: int) -> int:
            began = time.perf_counter()
            freed = evict(count)
            self._evicting += time.perf_counter() - began
            return freed

        cache.reclaim = reclaim

    def _remove_files(self) -> None:
        """Before the system writes them to the disk, during another variant's turn."""
        files = block_files(self.folder)
        self.written += len(files)
        for path in files:
            path.unlink()

    def _turn(self, way: str, engine: BatchEngine, number: int) -> Trace:
        self._evicting, before = 0.0, _busy(engine)
        trace, handle = ask(engine, ServedRequest(self._prompt(number), self.new_tokens))
        self.hits += handle.hits
        own = sum(one.own for one in engine.records if one.start >= trace.due)
        self.own.setdefault((way, number), []).append(own + self._evicting)
        self.behind.setdefault((way, number), []).append(_busy(engine) - before)
        if engine.prefix is not None:
            engine.prefix.flush()  # not in the next turn
        return trace

    def _prompt(self, number: int) -> list[int]:
        """A prompt whose first token no other one has: so it shares no block."""
        text = self.lab.prompt(_TEXT + number, self.tokens)
        return [number % self.lab.config.vocab_size, *text[1:]]

    def longer(self, way: str) -> Ratio:
        """How many times as long a request took as without a prefix cache, paired."""
        ratio = self.comparison.speedup(way, "e2e_latency")
        return interval([1 / one for one in ratio.rounds])

    def longer_by_own(self, way: str) -> Ratio:
        """The same where only the engine's own time differs, by its own clock: with less noise."""
        return self._more(way, self.own)

    def written_behind(self, way: str) -> Ratio:
        """1 and the share of a request's time for which another thread's writing keeps one core
        busy."""
        return self._more(way, self.behind)

    def _more(self, way: str, clock: dict[tuple[str, int], list[float]]) -> Ratio:
        whole = self.comparison.values(OFF, "e2e_latency")
        return interval(
            [
                1 + (mean(clock[way, number]) - mean(clock[OFF, number])) / seconds
                for number, seconds in enumerate(whole, 1)
            ]
        )


def _busy(engine: BatchEngine) -> float:
    """Processor seconds so far of the thread that writes the blocks of a disk tier."""
    disk = None if engine.prefix is None else engine.prefix.disk
    return disk.behind.busy if isinstance(disk, DiskBlocks) else 0.0


@dataclass
class Responses(Alone):
    """A request that was asked before, computed again and answered from a file.

    The file is written by one cache and read by another, as another process would.
    """

    answers: dict[tuple[str, int], tuple[int, ...]] = field(default_factory=dict)

    @cached_property
    def comparison(self) -> Comparison:
        """Computing the answer is the baseline."""
        file = self.folder / "responses.sqlite"
        written, read = ResponseCache(file), ResponseCache(file)
        first, second = (self._engine(Recall(cache, _WEIGHTS)) for cache in (written, read))
        runs = {
            COMPUTED: partial(self._computed, self._engine()),
            ANSWERED: partial(self._answered, first, second),
        }
        found = self.lab.compare(runs, COMPUTED, self.rounds, {}, label="identical requests")
        self.lab.keep_samples("identical_requests", found.to_dict())
        written.close()
        read.close()
        return found

    def _request(self, number: int, sampling: Sampling | None = None) -> ServedRequest:
        prompt = self.lab.prompt(_TEXT + 10_000 + number, self.tokens)
        return ServedRequest(prompt, self.new_tokens, sampling or Sampling())

    def _computed(self, engine: BatchEngine, number: int) -> Trace:
        trace, _ = ask(engine, self._request(number))
        self.answers[COMPUTED, number] = trace.tokens
        return trace

    def _answered(self, first: BatchEngine, second: BatchEngine, number: int) -> Trace:
        ask(first, self._request(number))  # answered before; not timed
        trace, handle = ask(second, self._request(number))
        if not handle.recalled:
            raise LabkitError("an answer that was written is not found in the response cache.")
        self.answers[ANSWERED, number] = trace.tokens
        return trace

    @property
    def same(self) -> tuple[int, int]:
        """How many answers from the file have the tokens of the computed ones, and of how many."""
        numbers = [number for way, number in self.answers if way == ANSWERED]
        equal = sum(self.answers[ANSWERED, n] == self.answers.get((COMPUTED, n)) for n in numbers)
        return equal, len(numbers)

    @cached_property
    def seeded(self) -> tuple[int, int]:
        """The same of answers that are sampled with a seed; not timed."""
        cache = ResponseCache(self.folder / "seeded.sqlite")
        plain, kept = self._engine(), self._engine(Recall(cache, _WEIGHTS))
        equal = 0
        for number in range(_SEEDED):
            request = self._request(number, Sampling(0.8, top_p=0.95, seed=number))
            ask(kept, request)
            trace, handle = ask(kept, request)
            equal += handle.recalled and trace.tokens == ask(plain, request)[0].tokens
        cache.close()
        return equal, _SEEDED

    def unseeded(self) -> bool:
        """Whether a request that is sampled without a seed is answered from the file the second
        time: it must not be."""
        cache = ResponseCache(self.folder / "unseeded.sqlite")
        engine = self._engine(Recall(cache, _WEIGHTS))
        request = self._request(0, Sampling(0.8))
        found = [ask(engine, request)[1].recalled for _ in range(2)]
        cache.close()
        return any(found)

    def _engine(self, recall: Recall | None = None) -> BatchEngine:
        blocks = blocks_for(self.tokens + self.new_tokens)
        return BatchEngine(self.target.decoder, 1, blocks, recall=recall)
