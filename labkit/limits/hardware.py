"""What a machine allows: read bandwidth by working set, matrix rate by dtype."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Reading:
    """One rate, measured in several spells: the fastest, the median, the slowest, and the spread.

    spread: the distance between the quartiles, over the median. slowest: 0 where not known.
    """

    best: float
    median: float
    spread: float
    slowest: float = 0.0

    @staticmethod
    def of(samples: Sequence[float]) -> Reading:
        low, middle, high = statistics.quantiles(samples, n=4)
        return Reading(max(samples), middle, (high - low) / middle, min(samples))


@dataclass(frozen=True)
class Hardware:
    """What a machine allows. Bandwidth in bytes/s by working set, rates in FLOP/s by dtype.

    capacity, cache: bytes of its memory and of its last-level cache, 0 where unknown. lost: the
    share of the core time that other work had while it was measured; None where not counted.
    """

    name: str
    device: str
    threads: int
    bandwidth_points: dict[int, Reading]
    matrix: dict[str, Reading]
    capacity: int = 0
    cache: int = 0
    by_threads: dict[int, dict[str, Reading]] = field(default_factory=dict)
    measured_at: str = ""
    source: str = "measured"
    lost: float | None = None

    def bandwidth(self, working_set: float) -> float:
        """The best sustained bytes/s of reading `working_set` bytes again and again.

        Never less than what a larger set reached: caches cannot serve a smaller one worse. Between
        two measured sizes, it interpolates over the logarithm of the size. Beyond the largest, it
        gives the rate of the largest.
        """
        best = [self.bandwidth_points[size].best for size in sorted(self.bandwidth_points)]
        return self._at(working_set, np.maximum.accumulate(best[::-1])[::-1])

    def slowest_bandwidth(self, working_set: float) -> float:
        """The same of the slowest spells, as they were measured: what the machine gave at its worst
        moment at this size is not better because a larger set had a better one."""
        sizes = sorted(self.bandwidth_points)
        return self._at(working_set, [self.bandwidth_points[size].slowest for size in sizes])

    def _at(self, working_set: float, rates: Sequence[float] | np.ndarray) -> float:
        """Rates of the measured sizes, interpolated over the logarithm of the size."""
        sizes = sorted(self.bandwidth_points)
        return float(np.interp(np.log(max(working_set, 1)), np.log(sizes), rates))

    def in_cache(self, working_set: float) -> bool:
        """Whether a working set fits a last-level cache whose bandwidth is not known: then the
        bandwidth of the memory bounds nothing. A measured machine knows its caches' bandwidth, and
        so does one whose vendor prints it."""
        unknown = self.source != "measured" and len(self.bandwidth_points) == 1
        return unknown and working_set <= self.cache

    def multiplied(self, dtype: str) -> str | None:
        """The dtype whose rate stands for that of products in `dtype`; None where none is known."""
        return next((one for one in (dtype, "bfloat16", "float32") if one in self.matrix), None)

    def rate(self, dtype: str) -> float:
        """FLOP/s of a dense matrix product in `dtype`, else in bfloat16, else in float32.

        Infinite where none of these is known: then memory alone sets the limit.
        """
        found = self.multiplied(dtype)
        return math.inf if found is None else self.matrix[found].best

    def slowest_rate(self, dtype: str) -> float:
        """The same of the slowest spells."""
        found = self.multiplied(dtype)
        return math.inf if found is None else self.matrix[found].slowest

    def describe(self) -> dict[str, Any]:
        """What a finding records about its hardware."""
        largest = max(self.bandwidth_points)
        return {
            "name": self.name,
            "device": self.device,
            "threads": self.threads,
            "memory_bandwidth": self.bandwidth_points[largest].best,
            "measured_at": self.measured_at,
            "matrix_rate": {dtype: reading.best for dtype, reading in self.matrix.items()},
            "source": self.source,
            "lost": self.lost,
        }
