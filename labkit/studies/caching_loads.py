"""The second measurement of notebook 06: whole loads, with a cache and without."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from labkit.engine.batching import BatchEngine
from labkit.engine.drive import Served, drive
from labkit.engine.recall import Recall
from labkit.engine.records import PassRecord
from labkit.engine.responses import ResponseCache
from labkit.errors import LabkitError
from labkit.limits.prefix import end_to_end_gain
from labkit.model.config import ModelConfig
from labkit.studies.caching_served import blocks_for, in_memory
from labkit.studies.lab import Lab
from labkit.studies.speculative_target import Target
from labkit.timing.compare import Comparison
from labkit.timing.trace import Trace
from labkit.workload.arrivals import at_once, closed_loop
from labkit.workload.conversations import (
    chats,
    hits_possible,
    repeated_questions,
    shared_prefix,
    zipf_shares,
)
from labkit.workload.own_trace import own_trace
from labkit.workload.pipeline import reasoning_pipeline
from labkit.workload.prompts import paragraphs
from labkit.workload.replay import replayed
from labkit.workload.timed import TimedWorkload

SHARED, CHATS, QUESTIONS = "shared system prompt", "chats", "repeated questions"
PIPELINE, REPLAY = "reasoning pipeline", "replay of a trace"
LOADS = (SHARED, CHATS, QUESTIONS, PIPELINE, REPLAY)
OFF, ON, RECALLED = "no cache", "prefix cache", "response cache"
TIME = "seconds_a_token"  # of a trace: the window over the tokens, 1 over output throughput
EXPONENT = 1.0  # of Zipf's law
_PREFIX, _OWN, _TURNS, _SHRINK = 256, 32, 3, 16
_EARLIER = 90_000  # the seed of the load that predictions are made from
Make = Callable[[int], TimedWorkload]


def makers(
    tokenizer: Any, config: ModelConfig, requests: int, slots: int, new_tokens: int
) -> dict[str, Make]:
    """By name: from a seed to a load of some `requests`; slots: served at the same time."""
    shared = min(_PREFIX, config.max_positions // 4)
    users = closed_loop(min(slots, requests), requests)
    conversations = max(1, requests // _TURNS)
    pipelines = max(2, requests // 4)  # the first one finds nothing
    return {
        SHARED: lambda seed: shared_prefix(
            tokenizer, users, shared, [_OWN] * requests, [new_tokens] * requests, seed
        ),
        CHATS: lambda seed: chats(
            tokenizer, at_once(conversations), [_TURNS] * conversations, new_tokens,
            paragraphs()[0], seed=seed,
        ),
        QUESTIONS: lambda seed: repeated_questions(
            tokenizer, users, max(2, requests // 2), EXPONENT, new_tokens, seed
        ),
        PIPELINE: lambda seed: reasoning_pipeline(
            tokenizer, closed_loop(1, pipelines), [new_tokens] * 4, seed
        ),
        REPLAY: lambda seed: replayed(
            own_trace(), config.vocab_size, shrink=_SHRINK, speed=1e9, first=requests,
            most_tokens=config.max_positions, seed=seed,
        ),
    }  # fmt: skip


class Told(NamedTuple):
    """A turn of a load: prompt tokens, those that a cache had, seconds in all and of prefill, and
    the tokens of each answer. recalled: the share of answers from a response cache."""

    asked: int
    hits: int
    seconds: float
    prefill: float
    answers: dict[int, tuple[int, ...]]
    recalled: float = 0.0

    @property
    def hit_rate(self) -> float:
        return self.hits / self.asked


def prefill_seconds(passes: Iterable[PassRecord]) -> float:
    """Seconds that reading prompts took. Of a pass that also has rows of answers, only what it took
    beyond a usual pass of such rows alone counts."""
    records = list(passes)
    decoding = [one.seconds for one in records if not one.prefill]
    usual = float(np.median(decoding)) if decoding else 0.0
    reading = [one for one in records if one.prefill]
    return sum(max(0.0, one.seconds - usual * (one.decode > 0)) for one in reading)


@dataclass
class Load:
    """One load in interleaved rounds: with no cache, with a prefix cache, and where requests are
    repeated with a response cache. Every turn begins with empty caches and other texts.

    make: from a seed to the load. folder: of the response cache; None: there is none.
    """

    lab: Lab
    target: Target
    name: str
    make: Make
    slots: int
    rounds: int
    folder: Path | None = None
    told: dict[tuple[str, int], Told] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.workloads = {n: self.make(n) for n in (*range(self.rounds + 1), _EARLIER)}
        tokens = max(self._tokens(one) for one in self.workloads.values())
        self._blocks = blocks_for(tokens) + 2 * len(self.workloads[0].requests)
        self._engines: dict[str, BatchEngine] = {}

    def _tokens(self, workload: TimedWorkload) -> int:
        """Tokens of all prompts and answers: then nothing is evicted."""
        return sum(workload.longest_prompts()) + sum(o.new_tokens for o in workload.requests)

    def _engine(self, **more: Any) -> BatchEngine:
        return BatchEngine(self.target.decoder, self.slots, self._blocks, **more)

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Engines, whose memory is given back at the end."""
        self._engines = {OFF: self._engine(), ON: self._engine(prefix=in_memory)}
        try:
            yield
        finally:
            self._engines = {}

    @property
    def ways(self) -> list[str]:
        return [OFF, ON, *([RECALLED] if self.folder is not None else [])]

    @cached_property
    def comparison(self) -> Comparison:
        """No cache is the baseline."""
        runs = {way: partial(self._turn, way) for way in self.ways}
        with self._open():
            found = self.lab.compare(runs, OFF, self.rounds, {}, label=self.name)
        told = [
            {"way": way, "round": number} | one._asdict() | {"answers": None}
            for (way, number), one in self.told.items()
        ]
        self.lab.keep_samples(f"load_{self.name.replace(' ', '_')}", found.to_dict() | {"of": told})
        return found

    def _turn(self, way: str, number: int) -> Trace:
        if way == RECALLED:
            return self._recalled(number)
        engine = self._engines[way]
        if engine.prefix is None:
            return self._note(way, number, self._served(engine, number))
        engine.prefix.clear()
        before = engine.prefix.counts.from_memory
        served = self._served(engine, number)
        return self._note(way, number, served, engine.prefix.counts.from_memory - before)

    def _recalled(self, number: int) -> Trace:
        """With a response cache that has no answer yet."""
        assert self.folder is not None
        path = self.folder / f"{self.name} {len(self.told)}.sqlite"
        cache = ResponseCache(path)
        engine = self._engine(recall=Recall(cache, "the weights of this process"))
        trace = self._note(RECALLED, number, self._served(engine, number))
        asked = cache.hits + cache.misses
        told = self.told[RECALLED, number]
        self.told[RECALLED, number] = told._replace(recalled=cache.hits / asked)
        cache.close()
        path.unlink(missing_ok=True)
        return trace

    def _served(self, engine: BatchEngine, number: int) -> Served:
        served = drive(engine, self.workloads[number])
        if served.failed:
            raise LabkitError(f"{self.name}: {next(iter(served.failed.values()))}")
        return served

    def _note(self, way: str, number: int, served: Served, hits: int = 0) -> Trace:
        traces = served.traces
        self.told[way, number] = Told(
            sum(one.prompt_tokens for one in traces.values()),
            hits,
            served.seconds,
            prefill_seconds(served.passes),
            {request: one.tokens for request, one in traces.items()},
        )
        return served.trace

    # What follows

    @cached_property
    def earlier(self) -> dict[str, Told]:
        """The same load with other texts, once without a cache and once with a prefix cache."""
        with self._open():
            for way in (OFF, ON):
                self._turn(way, _EARLIER)
        return {way: self.told[way, _EARLIER] for way in (OFF, ON)}

    @property
    def prefill_share(self) -> float:
        """Of the earlier load without a cache: the share of its time that prefill took."""
        return self.earlier[OFF].prefill / self.earlier[OFF].seconds

    @property
    def expected(self) -> float:
        """The gain that the earlier hit rate and share of prefill lead to expect (Amdahl)."""
        return end_to_end_gain(self.earlier[ON].hit_rate, self.prefill_share)

    def rounds_of(self, way: str) -> list[Told]:
        """The turns of the rounds that were kept."""
        return [self.told[way, n] for n in range(1, self.comparison.rounds + 1)]

    @property
    def hit_rate(self) -> float:
        """Of all prompt tokens of the rounds, those that the prefix cache had."""
        turns = self.rounds_of(ON)
        return sum(one.hits for one in turns) / sum(one.asked for one in turns)

    @property
    def recalled(self) -> float:
        """Of all requests of the rounds, those that the response cache answered."""
        return float(np.mean([one.recalled for one in self.rounds_of(RECALLED)]))

    @property
    def recallable(self) -> float:
        """Of all requests of the rounds, those that an earlier one had asked word for word."""
        numbers = range(1, self.comparison.rounds + 1)
        return float(np.mean([hits_possible(self.workloads[n]) for n in numbers]))

    @property
    def prefill_saved(self) -> float:
        """The share of the time of prefill that the prefix cache saved, the mean over rounds."""
        pairs = zip(self.rounds_of(OFF), self.rounds_of(ON), strict=True)
        return float(np.mean([1 - on.prefill / off.prefill for off, on in pairs]))

    @cached_property
    def same(self) -> float:
        """The share of all answers that have the same tokens with and without caches."""
        pairs = [
            (self.told[OFF, number].answers[request], tokens)
            for (way, number), one in self.told.items()
            if way != OFF and (OFF, number) in self.told
            for request, tokens in one.answers.items()
        ]
        return sum(one == other for one, other in pairs) / len(pairs)

    @property
    def tokens_compared(self) -> int:
        """Tokens of these answers."""
        every = (one for (way, _), one in self.told.items() if way != OFF)
        return sum(len(tokens) for one in every for tokens in one.answers.values())


def fitting(
    made: Mapping[str, Make], names: Sequence[str], config: ModelConfig
) -> tuple[dict[str, Make], dict[str, str]]:
    """The loads of these names that the model's context can hold; and why others are left out."""
    kept: dict[str, Make] = {}
    left: dict[str, str] = {}
    for name in names:
        longest = made[name](0).longest
        if longest <= config.max_positions:
            kept[name] = made[name]
        else:
            left[name] = (
                f"a request of it has {longest:,} tokens, and the model's context is "
                f"{config.max_positions:,}"
            )
    return kept, left


def repeated_share(requests: int, distinct: int, exponent: float) -> float:
    """The expected share of requests that repeat an earlier one, by Zipf's law: what a response
    cache can answer at most. Of n requests, question i is new once with probability
    1 - (1 - p_i)^n."""
    new = 1 - (1 - zipf_shares(distinct, exponent)) ** requests
    return 1 - float(new.sum()) / requests
