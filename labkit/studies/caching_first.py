"""The first measurement of notebook 06: the time to the first token after a shared prefix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from labkit.engine.batching import BatchEngine
from labkit.engine.disk_blocks import read_rate
from labkit.engine.prefix import PrefixCache
from labkit.engine.served import ServedRequest
from labkit.errors import LabkitError
from labkit.limits.cost import Cost
from labkit.limits.hardware import Reading
from labkit.limits.prefix import FirstToken
from labkit.limits.roofline import least_seconds
from labkit.model.cache.paged import BLOCK_SIZE
from labkit.report.told.compared import Least
from labkit.studies.caching_parts import Turn
from labkit.studies.caching_served import (
    aligned,
    ask,
    block_files,
    blocks_for,
    fetched,
    forget,
    prompt_cost,
    recall,
    with_disk,
)
from labkit.studies.lab import Lab
from labkit.studies.predictions import EARLIER, Prediction, not_below
from labkit.studies.speculative_target import Target
from labkit.timing.compare import Comparison
from labkit.timing.statistics import interval
from labkit.timing.trace import Trace

RECOMPUTED, MEMORY = "recomputed", "in memory"
HELD, DISK = "on disk, held by the system", "on disk"
WAYS = (RECOMPUTED, MEMORY, HELD, DISK)
CACHED = WAYS[1:]
_TEXT = 3000  # the number of the earlier text; the timed ones lie below
_ROWS = 256  # of a prompt in a pass, at least, where nobody answers
_LEAST_READ, _MOST_READ = 2**22, 2**26  # bytes of a file by which the disk is measured


class MissedPrefix(LabkitError):
    """A prefix was not found where it had been put: what was timed would be something else."""


@dataclass
class FirstTokens:
    """First tokens of prompts that share a prefix, in each of WAYS.

    folder: of the disk tier. prefixes: tokens that are shared. own: tokens that follow them.
    """

    lab: Lab
    target: Target
    folder: Path
    prefixes: Sequence[int]
    own: int
    rounds: int
    seen: list[Turn] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.prefixes = sorted(self.prefixes)
        tokens = self.prefixes[-1] + self.own
        blocks, passes = blocks_for(tokens + 1, 3), tokens // _ROWS + 1  # what is cached; a prompt
        self.engine = BatchEngine(
            self.target.decoder, 1, blocks, prefix=with_disk(self.folder), records=passes
        )
        self._ready: tuple[int, int] | None = None
        self._asked = 0

    @property
    def prefix(self) -> PrefixCache:
        assert self.engine.prefix is not None
        return self.engine.prefix

    @cached_property
    def kv_bytes(self) -> float:
        """Bytes of a token's keys and values, in the cache and on disk."""
        return self.engine.cache.store.block_nbytes / BLOCK_SIZE

    @cached_property
    def disk(self) -> Reading:
        """Bytes/s of reading a file that the system has forgotten."""
        wanted = int(self.kv_bytes * self.prefixes[-1])
        nbytes = min(max(wanted, _LEAST_READ), _MOST_READ)
        return Reading.of([read_rate(self.folder, nbytes) for _ in range(3)])

    def cost(self, way: str, length: int) -> Cost:
        """Of the pass that gives the first token."""
        before = 0 if way == RECOMPUTED else aligned(length)
        return prompt_cost(self.target, before, length + self.own - before, self.lab.dtype)

    def read_bytes(self, length: int) -> float:
        """Bytes of keys and values that a prefix has on disk."""
        return aligned(length) * self.kv_bytes

    def least(self, way: str, length: int) -> Least:
        """The limit of a first token: by the run's best rates, and by its slowest.

        What the system holds is read at the rate of the memory, what it does not at the disk's.
        """
        hardware, nbytes = self.lab.hardware, self.read_bytes(length)
        best, slow = self._computing(way, length), self._computing(way, length, slowest=True)
        if way == HELD:
            best += nbytes / hardware.bandwidth(nbytes)
            slow += nbytes / (hardware.slowest_bandwidth(nbytes) or math.nan)
        elif way == DISK:
            best, slow = best + nbytes / self.disk.best, slow + nbytes / self.disk.slowest
        return Least(best, slow if math.isfinite(slow) else None)

    def _computing(self, way: str, length: int, slowest: bool = False) -> float:
        cost, hardware = self.cost(way, length), self.lab.hardware
        return least_seconds(cost, hardware, self.target.attention, slowest)

    # What is told before

    @property
    def middle(self) -> int:
        """The prefix after which the earlier text is timed."""
        return self.prefixes[(len(self.prefixes) - 1) // 2]

    @cached_property
    def earlier(self) -> Comparison:
        """Another text, after one prefix, in each way."""
        runs = {way: partial(self._earlier_turn, way) for way in WAYS}
        rounds = min(self.rounds, EARLIER)
        found = self.lab.compare(runs, RECOMPUTED, rounds, {}, label="another text")
        self.lab.keep_samples("earlier", found.to_dict())
        return found

    def _earlier_turn(self, way: str, number: int) -> Trace:
        return self._turn(self.middle, way, _TEXT + number)

    @property
    def prefill_rate(self) -> float:
        """Tokens a second that the earlier prompts were read with."""
        taken = self.earlier.mean(RECOMPUTED, "ttft")
        return (self.middle + self.own) / taken

    def slower(self, way: str) -> float:
        """How many times its limit the earlier pass took."""
        return self.earlier.mean(way, "ttft") / self._computing(way, self.middle)

    def tier_rate(self, way: str) -> float | None:
        """Bytes/s of the earlier prefix through the disk tier, by what its turns took beyond those
        in memory; None where they took no longer."""
        beyond = self.earlier.mean(way, "ttft") - self.earlier.mean(MEMORY, "ttft")
        return self.read_bytes(self.middle) / beyond if beyond > 0 else None

    def _expected_rate(self, way: str) -> float:
        return self.tier_rate(way) or self.disk.best

    @cached_property
    def expected(self) -> FirstToken:
        """First tokens by the earlier text's passes, as far from their limits, and by what the disk
        tier gave there."""

        def prefill(before: int, new: int) -> float:
            way = MEMORY if before else RECOMPUTED
            cost = prompt_cost(self.target, before, new, self.lab.dtype)
            least = least_seconds(cost, self.lab.hardware, self.target.attention)
            return self.slower(way) * least

        return FirstToken(prefill, self.kv_bytes, self._expected_rate(DISK))

    def limit(self, way: str, length: int) -> Least | None:
        """`least`; None where the earlier text was already read faster than that."""
        earlier = self.earlier
        if way not in earlier.traces:
            return self.least(way, length)
        held = self.least(way, self.middle).standing(earlier.mean(way, "ttft"))
        return held and self.least(way, length)

    def expected_seconds(self, way: str, length: int) -> float:
        """The predicted time of a first token, never below its limit."""
        return not_below(self._expected_seconds(way, length), self.limit(way, length))

    def _expected_seconds(self, way: str, length: int) -> float:
        shared = aligned(length)
        own = length + self.own - shared
        if way == RECOMPUTED:
            return self.expected.computed(shared, own)
        if way == DISK:
            return self.expected.from_disk(shared, own)
        reading = self.read_bytes(length) / self._expected_rate(HELD) if way == HELD else 0.0
        return self.expected.in_memory(shared, own) + reading

    # What is measured

    @cached_property
    def comparisons(self) -> dict[int, Comparison]:
        """By the length of the prefix."""
        found = {length: self._compare(length) for length in self.prefixes}
        samples = {str(length): one.to_dict() for length, one in found.items()}
        seen = [one._asdict() for one in self.seen]
        self.lab.keep_samples("first_tokens", {"lengths": samples, "turns": seen})
        return found

    def _compare(self, length: int) -> Comparison:
        runs = {way: partial(self._turn, length, way) for way in WAYS}
        costs = {(way, "prefill"): self.cost(way, length) for way in (RECOMPUTED, MEMORY)}
        label = f"prefix of {length:,} tokens"
        return self.lab.compare(runs, RECOMPUTED, self.rounds, costs, label=label)

    def _turn(self, length: int, way: str, number: int) -> Trace:
        """A first token. The prefix was put where it is to be found; memory is dropped for a disk's
        turn. None of that is timed."""
        self._prepare(length, number)
        if way in (HELD, DISK):
            self.prefix.clear()
            recall(self.folder)
        if way == DISK:
            forget(self.folder)
        prompt = self._prompt(length, number)
        counted, counts = fetched(), self.prefix.counts.from_disk
        trace, handle = ask(self.engine, ServedRequest(prompt, 1, reuse=way != RECOMPUTED))
        now, read = fetched(), self.prefix.counts.from_disk - counts
        self._check(way, aligned(length), handle.hits, read)
        if 0 < number < _TEXT:
            passes = [one for one in self.engine.records if one.start >= trace.due]
            self.seen.append(
                Turn(
                    length, way, None if counted is None or now is None else now - counted,
                    sum(one.seconds for one in passes), sum(one.own for one in passes),
                )
            )  # fmt: skip
        return trace

    def _check(self, way: str, shared: int, hits: int, read: int) -> None:
        """MissedPrefix where a turn is not what its name says."""
        wanted = 0 if way == RECOMPUTED else shared
        if hits != wanted or read != (wanted if way in (HELD, DISK) else 0):
            off = getattr(self.prefix.disk, "off", None) or ""
            raise MissedPrefix(
                f"{way}: of {shared:,} shared tokens, {hits:,} were found, {read:,} of them on "
                f"disk. {off}".strip()
            )

    def _prepare(self, length: int, number: int) -> None:
        """Have the prefix of a round in memory and on disk, and nothing else in either."""
        if self._ready == (length, number):
            return
        self.prefix.clear()
        self.prefix.flush()  # what it wrote is removed too
        for path in block_files(self.folder):
            path.unlink()
        ask(self.engine, ServedRequest(self._prompt(length, number), 1))
        self.prefix.save()
        self._ready = length, number

    def _prompt(self, length: int, number: int) -> list[int]:
        """A prefix of its own for every length and round, and own tokens that no earlier prompt has
        after it: their first one is another each time."""
        self._asked += 1
        shared = self.lab.prompt(10_000 * number + length, length)
        own = self.lab.prompt(20_000 * number + self._asked, self.own)
        return [*shared, self._asked % self.lab.config.vocab_size, *own[1:]]

    def predictions(self) -> list[Prediction]:
        """Each expected time of a first token beside the measured one."""
        return [
            Prediction(
                f"{way} after {length:,}",
                self.expected_seconds(way, length),
                interval(found.values(way, "ttft")),
            )
            for length, found in self.comparisons.items()
            for way in found.variants
        ]

    def share_fetched(self, way: str) -> float | None:
        """Of the bytes that the turns of a way needed from files, those fetched from storage."""
        turns = [one for one in self.seen if one.way == way and one.fetched is not None]
        needed = sum(self.read_bytes(one.length) for one in turns)
        return sum(one.fetched or 0 for one in turns) / needed if needed else None

    def faster_from(self, way: str) -> int | None:
        """The first prefix from which on a way is measurably sooner than computing, for it and all
        longer ones."""
        found: int | None = None
        for length in reversed(self.prefixes):
            one = self.comparisons[length]
            if way not in one.variants or one.speedup(way, "ttft").low <= 1:
                break
            found = length
        return found

    def gain(self, way: str, length: int) -> float:
        """The limit of computing over the limit of a way."""
        return self.least(RECOMPUTED, length).seconds / self.least(way, length).seconds
