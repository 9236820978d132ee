"""Random streams that never meet: each use of a seed, and each worker, has one of its own.

Two streams that begin with the same seed draw the same numbers. Gaps and lengths would then rise
and fall together, and two workers would ask the same. So every stream is spawned by numpy's
SeedSequence (O'Neill, "PCG", 2014, and numpy's documentation on parallel generation).
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from labkit.errors import ParameterError


class Use(IntEnum):
    """What a stream is for. The numbers are part of what a seed means: they never change."""

    ARRIVALS = 0
    PROMPT_LENGTHS = 1
    OUTPUT_LENGTHS = 2
    THINKING = 3
    POPULARITY = 4
    TEXT = 5
    SAMPLING = 6
    WORKERS = 7


def check_seed(seed: int) -> int:
    """The seed; ParameterError where it is no whole number from 0 on."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ParameterError(f"seed {seed!r}: allowed are whole numbers from 0 on.")
    return int(seed)


def stream(seed: int, use: Use, *key: int) -> np.random.Generator:
    """The stream of a seed for one use; independent of the seed's other streams.

    key: tells apart streams of one use, as those of many texts.
    """
    return np.random.default_rng(np.random.SeedSequence(check_seed(seed), spawn_key=(use, *key)))


def worker_streams(seed: int, workers: int) -> list[np.random.Generator]:
    """A stream for each of several workers; the first ones are the same whatever the number."""
    parent = np.random.SeedSequence(check_seed(seed), spawn_key=(Use.WORKERS,))
    return [np.random.default_rng(one) for one in parent.spawn(workers)]


def request_seeds(seed: int, count: int) -> tuple[int, ...]:
    """A seed for the sampling of each of `count` requests, all different, below 2^63.

    The first ones are the same whatever the count.
    """
    parent = np.random.SeedSequence(check_seed(seed), spawn_key=(Use.SAMPLING,))
    return tuple(
        int(one.generate_state(1, np.uint64)[0] >> np.uint64(1)) for one in parent.spawn(count)
    )
