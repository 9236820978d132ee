"""Where the time goes: what reading a prefix from disk consists of, and the engine's own part."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from labkit.engine.batching import BatchEngine
from labkit.engine.block_file import checksum
from labkit.studies.caching_served import block_files, recall
from labkit.timing.statistics import FEWEST_ROUNDS, Ratio, geometric_mean, interval

READ, CHECK, COPY = "reading the files", "their checksums", "copying into the cache"


class Turn(NamedTuple):
    """A first token: after how many shared tokens and in which way, the bytes fetched from storage
    (None where nobody counts them), seconds of the passes and of the engine itself."""

    length: int
    way: str
    fetched: int | None
    passes: float
    own: float


def of_reading(
    engine: BatchEngine, folder: Path, blocks: int, rounds: int = FEWEST_ROUNDS
) -> dict[str, Ratio]:
    """Seconds that so many blocks take in each part of being read from disk, with intervals.

    The files are those of a disk tier that are there now, and the system holds them. Where there
    are fewer, the time is that of as many as asked for. The first block of the engine's cache is
    written with what it holds.
    """
    files, store = block_files(folder)[:blocks], engine.cache.store
    recall(folder)
    contents, block = [path.read_bytes() for path in files], store.read_block(0)

    def reading() -> None:
        for path in files:
            path.read_bytes()

    def checking() -> None:
        for content in contents:
            checksum(content)

    def copying() -> None:
        for _ in files:
            store.write_block(0, block)

    works: dict[str, Callable[[], None]] = {READ: reading, CHECK: checking, COPY: copying}
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            taken[name].append(_seconds(work) * blocks / len(files))
    return {name: interval(found) for name, found in taken.items()}


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def mean_of(turns: Sequence[Turn], length: int, way: str) -> tuple[float, float]:
    """Seconds of the passes and of the engine itself over the turns of a way: geometric means, as
    every page tells, so that both together are never above the mean time of a turn."""
    found = [one for one in turns if (one.length, one.way) == (length, way)]
    passes, own = ([getattr(one, part) for one in found] for part in ("passes", "own"))
    return geometric_mean(passes), geometric_mean(own)
