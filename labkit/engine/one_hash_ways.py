"""The ways in which `one_hash` has the same answers computed; each gives every logit of them."""

from __future__ import annotations

import hashlib
import itertools
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from labkit.engine.batching import BatchEngine
from labkit.engine.control import Fixed
from labkit.engine.disk_blocks import BreakEven, DiskBlocks
from labkit.engine.draft import NOTHING, Draft, Proposal
from labkit.engine.generate import generate
from labkit.engine.prefix import PrefixCache
from labkit.engine.prefix_key import PrefixKey
from labkit.engine.scheduler import Budget, Plan, State, blocks_of, plan_pass
from labkit.engine.served import Event, Handle, ServedRequest
from labkit.model.cache.paged import BLOCK_SIZE, PagedCache
from labkit.model.forward import Forward
from labkit.model.sampling import greedy

_GROUP = 50  # answers whose prompts are in the prefix cache together
_SLOTS = 8


class Hashed:
    """A greedy sampler that hashes the logits it sees. marks: the SHA-256 up to each token."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.marks: list[bytes] = []

    def __call__(self, logits: Tensor) -> int:
        self._hash.update(logits.detach().cpu().contiguous().numpy().tobytes())
        self.marks.append(self._hash.copy().digest())
        return greedy(logits)


@dataclass(frozen=True)
class Answer:
    """The tokens of an answer, and the SHA-256 over all its logits up to each of them."""

    tokens: tuple[int, ...]
    marks: tuple[bytes, ...]


Answers = list[Answer]
Each = Callable[[BatchEngine, list[Event]], None]


class KnownText(Draft):
    """Drafts what is known to come, with some tokens spoiled; as a chain or as a tree.

    It is there to be accepted in part: rows are kept, dropped and moved.
    """

    def __init__(self, text: Sequence[int], vocab: int, tree: bool, seed: int) -> None:
        self.name, self._text, self._vocab, self._tree = "known text", list(text), vocab, tree
        self._random = random.Random(seed)

    def propose(self, context: Sequence[int], limit: int) -> Proposal:
        right = self._text[len(context) : len(context) + limit]
        if not right:
            return NOTHING
        spoiled = [self._spoil(token) for token in right]
        if not self._tree:
            return Proposal(spoiled)
        # Two chains from the same root; the right tokens are now in one, now in the other.
        half = max(1, limit // 2)
        first, second = spoiled[:half], right[: limit - half]
        parents = [*range(-1, len(first) - 1)]
        if second:
            parents += [-1, *range(len(first), len(first) + len(second) - 1)]
        return Proposal([*first, *second], parents=tuple(parents))

    def _spoil(self, token: int) -> int:
        return (token + 1) % self._vocab if self._random.random() < 0.3 else token


@dataclass(frozen=True)
class Questions:
    """Prompts and the number of new tokens that each is answered with, by one decoder."""

    decoder: Forward
    prompts: Sequence[tuple[int, ...]]
    new_tokens: int
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(map(len, self.prompts))

    @property
    def blocks(self) -> int:
        """Blocks of the longest prompt with its answer."""
        return blocks_of(self.longest + self.new_tokens, BLOCK_SIZE)

    def alone(self) -> Answers:
        """Each answer by `generate`, in a cache of its own."""
        found = []
        for prompt in self.prompts:
            hashed = Hashed()
            tokens = generate(self.decoder, prompt, self.new_tokens, sampler=hashed)
            found.append(Answer(tuple(tokens), tuple(hashed.marks)))
        return found

    def served(
        self,
        engine: BatchEngine,
        which: Sequence[int],
        each: Each | None = None,
        draft: Callable[[int], Draft] | None = None,
    ) -> list[tuple[Answer, Handle]]:
        """The answers with these numbers by an engine. each: is called after every step."""
        asked = []
        for number in which:
            hashed = Hashed()
            drafts = None if draft is None else draft(number)
            request = ServedRequest(
                self.prompts[number], self.new_tokens, hashed, draft=drafts, control=Fixed(6)
            )
            asked.append((hashed, engine.submit(request)))
        while not engine.idle:
            events = engine.step()
            if each is not None:
                each(engine, events)
        return [(_answer(hashed, handle), handle) for hashed, handle in asked]

    def by(self, engine: BatchEngine, **how: Callable) -> Answers:  # type: ignore[type-arg]
        """All answers by an engine."""
        return [answer for answer, _ in self.served(engine, range(len(self.prompts)), **how)]

    def engine(self, slots: int = _SLOTS, blocks: int = 0, **more: object) -> BatchEngine:
        """An engine with memory for all its slots."""
        return BatchEngine(self.decoder, slots, blocks or slots * self.blocks, **more)  # type: ignore[arg-type]

    def groups(self) -> Iterator[range]:
        """The numbers of the prompts, some at a time."""
        for start in range(0, len(self.prompts), _GROUP):
            yield range(start, min(start + _GROUP, len(self.prompts)))


def _answer(hashed: Hashed, handle: Handle) -> Answer:
    if handle.error is not None:
        raise handle.error
    return Answer(tuple(handle.tokens), tuple(hashed.marks[: len(handle.tokens)]))


def in_batches(slots: int) -> Callable[[Questions], Answers]:
    """So many answers in each pass."""
    return lambda asked: asked.by(asked.engine(slots))


def in_chunks(asked: Questions) -> Answers:
    """Each prompt read in chunks of another size, from one row up to the longest prompt."""

    def policy(state: State, budget: Budget) -> Plan:
        first = state.running[0] if state.running else state.waiting[0]
        return plan_pass(state, Budget(rows=1 + first.number % asked.longest))

    return asked.by(asked.engine(1, policy=policy))


def _key(cache: PagedCache) -> PrefixCache:
    return PrefixCache(cache, PrefixKey("one hash", ""))


def cold(asked: Questions) -> Answers:
    """With a prefix cache that has only what the other prompts left in it."""
    return asked.by(asked.engine(prefix=_key))


def hit_in_memory(asked: Questions) -> Answers:
    """Each prompt for the second time: its blocks are in the prefix cache."""
    found: Answers = []
    hits = 0
    for group in asked.groups():
        engine = asked.engine(blocks=(len(group) + _SLOTS) * asked.blocks, prefix=_key)
        asked.served(engine, group)
        again = asked.served(engine, group)
        found += [answer for answer, _ in again]
        hits += sum(handle.hits for _, handle in again)
    asked.facts["hit in memory"] = _share(hits, asked)
    return found


def hit_on_disk(asked: Questions) -> Answers:
    """Each prompt again in a new engine, which finds its blocks on disk."""
    found: Answers = []
    hits = from_disk = 0
    with tempfile.TemporaryDirectory() as folder:
        for group in asked.groups():
            blocks = (len(group) + _SLOTS) * asked.blocks
            first = asked.engine(blocks=blocks, prefix=_on_disk(Path(folder)))
            asked.served(first, group)
            assert first.prefix is not None
            first.prefix.save()
            second = asked.engine(blocks=blocks, prefix=_on_disk(Path(folder)))
            assert second.prefix is not None
            again = asked.served(second, group)
            found += [answer for answer, _ in again]
            hits += sum(handle.hits for _, handle in again)
            from_disk += second.prefix.counts.from_disk
    asked.facts["hit on disk"] = f"{_share(hits, asked)}, {from_disk} tokens read from disk"
    return found


def _on_disk(folder: Path) -> Callable[[PagedCache], PrefixCache]:
    worth_it = BreakEven(kv_bytes=1, prefill_rate=1, read_rate=2)  # bits are asked for, not time

    def make(cache: PagedCache) -> PrefixCache:
        tier = DiskBlocks(folder, cache.store.layout, worth_it)
        return PrefixCache(cache, PrefixKey("one hash", ""), tier)

    return make


def _share(hits: int, asked: Questions) -> str:
    return f"{hits / sum(map(len, asked.prompts)):.0%} of the prompts' tokens were hits"


def preempted(asked: Questions) -> Answers:
    """Every request loses its slot after every token, and computes all of it again."""

    def each(engine: BatchEngine, events: list[Event]) -> None:
        for event in events:
            if event.finish is None:
                engine.preempt(event.number)

    return asked.by(asked.engine(), each=each)


def neighbours_cancelled(asked: Questions) -> Answers:
    """Beside each request another one, which is cancelled at a random moment."""
    rng, waiting = random.Random(0), iter(range(len(asked.prompts)))
    others: list[Handle] = []

    def each(engine: BatchEngine, events: list[Event]) -> None:
        for number in itertools.islice(waiting, rng.choice((0, 1, 2))):
            prompt = asked.prompts[number][::-1]
            others.append(engine.submit(ServedRequest(prompt, asked.new_tokens)))
        for other in [one for one in others if rng.random() < 0.2]:
            other.cancel()
            others.remove(other)

    return asked.by(asked.engine(), each=each)


def drafted(known: Answers, tree: bool) -> Callable[[Questions], Answers]:
    """With drafts, some of whose tokens are wrong."""

    def run(asked: Questions) -> Answers:
        def draft(number: int) -> Draft:
            text = [*asked.prompts[number], *known[number].tokens]
            return KnownText(text, asked.decoder.config.vocab_size, tree, number)

        return asked.by(asked.engine(), draft=draft)

    return run


def ways(known: Answers, batches: Sequence[int]) -> dict[str, Callable[[Questions], Answers]]:
    """All ways by name. known: the answers alone."""
    found: dict[str, Callable[[Questions], Answers]] = {
        f"in batches of {slots}": in_batches(slots) for slots in batches
    }
    return found | {
        "every chunk size": in_chunks,
        "cold": cold,
        "hit in memory": hit_in_memory,
        "hit on disk": hit_on_disk,
        "preempted at every token": preempted,
        "neighbours cancelled": neighbours_cancelled,
        "drafts on, chains": drafted(known, tree=False),
        "drafts on, trees": drafted(known, tree=True),
    }
