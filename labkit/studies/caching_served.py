"""What notebook 06 asks of an engine: one request at a time, with and without its caches."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from labkit.engine.batching import BatchEngine
from labkit.engine.disk_blocks import BreakEven, DiskBlocks
from labkit.engine.prefix import PrefixCache
from labkit.engine.prefix_key import PrefixKey
from labkit.engine.scheduler import blocks_of
from labkit.engine.served import Handle, ServedRequest
from labkit.limits.cost import Cost, bytes_of_rows, pass_cost, with_weights
from labkit.model.cache.paged import BLOCK_SIZE, PagedCache
from labkit.studies.speculative_target import Target
from labkit.timing.trace import Trace

# Whether the disk is worth reading is told on the page; here it is read in any case.
_IN_ANY_CASE = BreakEven(kv_bytes=1, prefill_rate=1, read_rate=2)
_KEY = PrefixKey("notebook 06", "the weights of this process")
_COUNTERS = Path("/proc/self/io")
MakePrefix = Callable[[PagedCache], PrefixCache]


def in_memory(cache: PagedCache) -> PrefixCache:
    """A prefix cache without a disk tier."""
    return PrefixCache(cache, _KEY)


def with_disk(folder: Path) -> MakePrefix:
    """Prefix caches whose disk tier lies in a folder."""
    return lambda cache: PrefixCache(
        cache, _KEY, DiskBlocks(folder, cache.store.layout, _IN_ANY_CASE)
    )


def blocks_for(tokens: int, times: int = 1) -> int:
    """Blocks that hold so many tokens, `times` over."""
    return times * blocks_of(tokens, BLOCK_SIZE)


def aligned(tokens: int) -> int:
    """Of so many tokens those in whole blocks, which is what a prefix cache can give."""
    return tokens // BLOCK_SIZE * BLOCK_SIZE


def ask(engine: BatchEngine, request: ServedRequest) -> tuple[Trace, Handle]:
    """One request, served alone to its end. A token has come when the step that gave it ended.

    Raises what the request failed with.
    """
    due = time.perf_counter()
    handle = engine.submit(request)
    times: list[float] = []
    while not engine.idle:
        events = engine.step()
        now = time.perf_counter()
        times += [now for event in events for _ in event.tokens]
    if handle.error is not None:
        raise handle.error
    return Trace(due, tuple(times), len(request.prompt), tuple(handle.tokens)), handle


def prompt_cost(target: Target, before: int, new: int, dtype: str) -> Cost:
    """Reading `new` rows of a prompt after `before` others, with the logits of the last one.

    dtype: of the model's weights as loaded.
    """
    config, span = target.decoder.config, [(before, new)]
    if (nbytes := target.weight_bytes) is None:
        return pass_cost(config, span, 1, dtype)
    cost = pass_cost(config, span, 1, dtype, "float16")
    read = bytes_of_rows(config, nbytes, new)
    return replace(with_weights(cost, read), dtype=target.products or dtype)


def block_files(folder: Path) -> list[Path]:
    """The files of a disk tier; a folder of a tier has one of its own for each layout."""
    return sorted(folder.glob("*/*.block"))


def forget(folder: Path) -> bool:
    """Have the system forget the files of a disk tier, so that they are read from storage.

    False where it cannot be told to. What lies below it, a host's cache say, is not forgotten.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in block_files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())  # what is not written yet is not forgotten
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def recall(folder: Path) -> None:
    """Read the files of a disk tier, so that the system holds them."""
    for path in block_files(folder):
        path.read_bytes()


def fetched() -> int | None:
    """Bytes that this process has had read from storage so far; None where nobody counts them.

    What the system held in memory does not count (proc_pid_io(5), read_bytes).
    """
    try:
        lines = _COUNTERS.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) for line in lines if line.startswith("read_bytes:")]
    return found[0] if found else None
