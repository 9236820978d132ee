"""Requests to an engine, and what each of them gets alone."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from torch import Tensor

from labkit.engine.batching import BatchEngine
from labkit.engine.control import Fixed
from labkit.engine.generate import generate
from labkit.engine.prefix import PrefixCache
from labkit.engine.prefix_key import PrefixKey
from labkit.engine.served import Handle, ServedRequest
from labkit.model.cache.paged import PagedCache
from labkit.model.sampling import Sample, Sampler, greedy
from tests.speculative_stubs import Bushy, Scripted

VOCAB = 97


class Witness:
    """A sampler that keeps a digest of the logits of every token."""

    def __init__(self, inner: Sample) -> None:
        self.inner, self.seen = inner, []

    def __call__(self, logits: Tensor) -> int:
        data = logits.contiguous().numpy().tobytes()
        self.seen.append(hashlib.blake2b(data, digest_size=8).digest())
        return self.inner(logits)


class Alone(NamedTuple):
    """What a request gets alone: its tokens, and the digests of the logits that gave them."""

    tokens: list[int]
    digests: list[bytes]


@dataclass(frozen=True)
class Ask:
    """A request of a test. drawn: the seed of its sampler, None for greedy. draft: "", "chain" or
    "tree". watched: its logits are compared too."""

    prompt: tuple[int, ...]
    count: int
    drawn: int | None = None
    stop: int | None = None
    draft: str = ""
    watched: bool = True

    def sampler(self) -> Sample:
        return greedy if self.drawn is None else Sampler(0.8, top_k=9, seed=self.drawn)


class Served(NamedTuple):
    """A request that was submitted, with its witness."""

    ask: Ask
    handle: Handle
    witness: Sample


class Judge:
    """Knows what every request gets alone."""

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder
        self._alone = cache(self._compute)

    def _compute(self, ask: Ask) -> Alone:
        witness = Witness(ask.sampler())
        stops = () if ask.stop is None else (ask.stop,)
        tokens = list(
            generate(self.decoder, ask.prompt, ask.count, sampler=witness, stop_ids=stops)
        )
        return Alone(tokens, witness.seen)

    def alone(self, ask: Ask) -> Alone:
        return self._alone(Ask(ask.prompt, ask.count, ask.drawn, ask.stop))

    def submit(self, engine: BatchEngine, ask: Ask, **more: Any) -> Served:
        witness = Witness(ask.sampler()) if ask.watched else ask.sampler()
        known = [*ask.prompt, *self.alone(ask).tokens]
        drafts = {
            "chain": lambda: Scripted(known, 0.3, VOCAB, len(known)),
            "tree": lambda: Bushy(known, VOCAB, len(known)),
        }
        draft = drafts[ask.draft]() if ask.draft else None
        stops = () if ask.stop is None else (ask.stop,)
        request = ServedRequest(
            ask.prompt, ask.count, witness, stops, draft=draft, control=Fixed(5), **more
        )
        return Served(ask, engine.submit(request), witness)

    def check(self, served: Served) -> None:
        """The tokens and logits so far are those of the request alone; all, where it is over."""
        ask, handle, witness = served
        expected = self.alone(ask)
        given = handle.tokens
        assert given == expected.tokens[: len(given)]
        if isinstance(witness, Witness):
            count = len(given)
            assert witness.seen[:count] == expected.digests[:count]
        if handle.finish in ("length", "stop_id"):
            assert given == expected.tokens


def finish(engine: BatchEngine, steps: int = 10_000) -> None:
    """Step until the engine is idle; the integrity of its memory is checked after each step."""
    for _ in range(steps):
        if engine.idle:
            check(engine)
            return
        engine.step()
        check(engine)
    raise AssertionError(f"the engine is not idle after {steps} steps")


def check(engine: BatchEngine) -> None:
    """free + held + cached = total, counts equal the tables; when idle, nothing is held."""
    engine.cache.check()
    if engine.prefix is not None:
        engine.prefix.check()
    book = engine.cache.book
    assert book.free + book.held + book.cached == book.total
    if engine.idle:
        assert book.held == 0
        assert all(engine.cache.length(slot) == 0 for slot in range(engine.cache.slots))


def with_prefixes(cache: PagedCache) -> PrefixCache:
    return PrefixCache(cache, PrefixKey("tiny", "0" * 64, "", ""))


def prompt(seed: int, length: int, shared: int = 0) -> tuple[int, ...]:
    """`length` tokens, the first `shared` of which are the same for every seed."""
    common, own = random.Random(0), random.Random(seed + 1)
    first = [common.randrange(VOCAB) for _ in range(min(shared, length))]
    return tuple(first + [own.randrange(VOCAB) for _ in range(length - len(first))])


def ended(served: Sequence[Served]) -> bool:
    return all(one.handle.finish is not None for one in served)
