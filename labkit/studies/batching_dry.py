"""Which passes a workload will take, without a model: the engine plans them, and nothing computes.

A plan depends on lengths alone, not on tokens. With the measured cost of rows this forecasts the
time of a workload before it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.engine.batching import BatchEngine
from labkit.engine.records import PassRecord
from labkit.engine.scheduler import Policy, blocks_of
from labkit.errors import ParameterError
from labkit.model.cache.paged import BLOCK_SIZE, PagedCache
from labkit.model.cache.table import Cache
from labkit.model.config import ModelConfig
from labkit.model.rows import Part, Rows
from labkit.studies.batching_runs import served
from labkit.workload.timed import TimedWorkload


class _NoStore:
    """A store without keys and values; the table alone knows how long the slots are."""

    capacity, window, sinks, trees, nbytes, layout = None, None, 0, True, 0, "nothing"

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks

    def point(self, slot: int, index: int, block: int) -> None:
        """Nothing is stored."""

    def truncate(self, slot: int, length: int) -> None:
        """Nothing is stored."""

    def move(self, slot: int, source: int, target: int) -> None:
        """Nothing is stored."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Nothing is stored."""

    def copy_block(self, source: int, target: int) -> None:
        """Nothing is stored."""

    @property
    def block_nbytes(self) -> int:
        """Nothing is stored."""
        return 0

    def read_block(self, block: int) -> bytes:
        """Nothing is stored."""
        return b""

    def read_block_into(self, block: int, target: bytearray) -> None:
        """Nothing is stored."""

    def write_block(self, block: int, content: bytes) -> None:
        """Nothing is stored."""


class Dry:
    """A decoder whose passes compute nothing: every token is number 0."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    def new_cache(self, slots: int, capacity: int) -> Cache:
        return Cache(_NoStore(0), slots)

    def new_paged_cache(self, slots: int, blocks: int) -> PagedCache:
        return PagedCache(_NoStore(blocks), slots)

    def __call__(self, rows: Rows, cache: Cache) -> Tensor:
        cache.reserve(rows)
        return torch.zeros(len(rows.asked), self.config.vocab_size)

    def greedy(self, parts: Sequence[Part], cache: Cache) -> list[list[int]]:
        cache.reserve(Rows.of(parts))
        return [[0] * part.wanted for part in parts]


@dataclass(frozen=True)
class Foreseen:
    """The passes of a workload, and the seconds that they are expected to take."""

    passes: tuple[PassRecord, ...]
    seconds: float
    tokens: int

    @property
    def rate(self) -> float:
        """Output tokens a second."""
        return self.tokens / self.seconds


def foreseen(
    config: ModelConfig,
    workload: TimedWorkload,
    slots: int,
    policy: Policy,
    taking: Callable[[int, int], float],
) -> Foreseen:
    """What a workload will take. taking: seconds of a pass of so many rows of
    requests that hold so many positions together.

    Its requests must come at the start, or after others: no time passes here. Raises ParameterError
    where they do not.
    """
    if any(one.due for one in workload.requests):
        raise ParameterError(f"{workload.name}: requests that come later cannot be foreseen.")
    blocks = slots * blocks_of(workload.longest, BLOCK_SIZE)
    engine = BatchEngine(Dry(config), slots, blocks, policy=policy)
    found = served(engine, workload)
    seconds = sum(
        taking(one.prefill + one.decode, one.blocks_held * BLOCK_SIZE) for one in found.passes
    )
    return Foreseen(tuple(found.passes), seconds, len(found.trace.times))
