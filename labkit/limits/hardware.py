"""This machine, measured: read bandwidth by working set, matrix rate by dtype.

The result is kept for each machine, device, thread count and torch version; `remeasure=True`
measures again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from labkit.base.device import Device, cores_allowed, device_name, kind, memory_bytes
from labkit.base.device import threads as torch_threads
from labkit.base.paths import atomic_write, cache_dir
from labkit.limits import probe
from labkit.limits.probe import BandwidthProbe

__all__ = ["BandwidthProbe", "Hardware", "Reading", "measure_hardware"]

_VERSION = 6  # of the measurement: a new one does not read old files
# If a short probe is faster than the measurement by this factor, other work slowed the measurement.
_BEATEN = 1.25
_GLANCE = 0.02  # seconds of a short probe


@dataclass(frozen=True)
class Reading:
    """One measured rate: the fastest sample, the median, and the spread.

    spread: the distance between the quartiles, over the median.
    """

    best: float
    median: float
    spread: float

    @staticmethod
    def of(samples: Sequence[float]) -> Reading:
        low, middle, high = statistics.quantiles(samples, n=4)
        return Reading(max(samples), middle, (high - low) / middle)


@dataclass(frozen=True)
class Hardware:
    """What a machine allows. Bandwidth in bytes/s by working set, rates in FLOP/s by dtype."""

    name: str
    device: str
    threads: int
    bandwidth_points: dict[int, Reading]
    matrix: dict[str, Reading]
    capacity: int = 0
    by_threads: dict[int, dict[str, Reading]] = field(default_factory=dict)
    measured_at: str = ""
    source: str = "measured"

    def bandwidth(self, working_set: float) -> float:
        """bytes/s of reading `working_set` bytes again and again.

        Between two measured sizes, it interpolates over the logarithm of the size. Beyond the
        largest, it gives the rate of the largest.
        """
        sizes = sorted(self.bandwidth_points)
        rates = [self.bandwidth_points[size].best for size in sizes]
        return float(np.interp(np.log(max(working_set, 1)), np.log(sizes), rates))

    def rate(self, dtype: str) -> float:
        """FLOP/s of a dense matrix product in `dtype`, else in bfloat16, else in float32.

        Infinite where none of these is known: then memory alone sets the limit.
        """
        for known in dict.fromkeys((dtype, "bfloat16", "float32")):
            if known in self.matrix:
                return self.matrix[known].best
        return math.inf

    def describe(self) -> dict[str, Any]:
        """What a finding records about its hardware."""
        largest = max(self.bandwidth_points)
        return {
            "name": self.name,
            "device": self.device,
            "threads": self.threads,
            "memory_bandwidth": self.bandwidth_points[largest].best,
            "matrix_rate": {dtype: reading.best for dtype, reading in self.matrix.items()},
            "source": self.source,
        }


def _measure_bandwidth(device: Device, threads: int, sizes: list[int], seconds: float) -> Any:
    points = {}
    for size in tqdm(sizes, desc=f"memory, {threads} threads", unit="size", leave=False):
        points[size] = Reading.of(BandwidthProbe(size, threads, device).rates(seconds, least=5))
    return points


def _dtypes(device: Device) -> dict[str, torch.dtype]:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if kind(device) != "mps":
        known["int8"] = torch.int8
    return known | ({"float16": torch.float16} if kind(device) != "cpu" else {})


def _measure_matrix(device: Device, threads: int, seconds: float) -> dict[str, Reading]:
    """For each dtype the best of several sizes: small ones suit caches, large ones accelerators.

    A size is skipped if a single product would take more than `seconds`. Where a dtype has no fast
    path (bfloat16 on many CPUs), large products would take minutes and show nothing new.
    """
    sizes = (256, 768, 1536) if kind(device) == "cpu" else (2048, 8192)
    rates = {}
    with torch_threads(threads):
        for name, dtype in tqdm(_dtypes(device).items(), desc="matrix product", leave=False):
            found: list[Reading] = []
            for n in sizes:
                if not found or 2 * n**3 / found[-1].best < seconds:
                    found.append(Reading.of(probe.matrix_rates(dtype, n, device, seconds)))
            rates[name] = max(found, key=lambda reading: reading.best)
    return rates


def _measure(device: Device, threads: int, seconds: float) -> Hardware:
    from datetime import UTC, datetime

    largest = probe.LARGEST_PROBE if kind(device) == "cpu" else 4 * 2**30
    points = _measure_bandwidth(device, threads, probe.working_sets(largest), seconds)
    by_threads: dict[int, dict[str, Reading]] = {}
    counts = sorted({2**k for k in range(10) if 2**k < threads} | {threads})
    for count in counts if kind(device) == "cpu" else []:
        memory = BandwidthProbe(probe.LARGEST_PROBE, count).rates(seconds, least=5)
        with torch_threads(count):
            product = probe.matrix_rates(torch.float32, 1536, device, seconds)
        by_threads[count] = {"bandwidth": Reading.of(memory), "matrix": Reading.of(product)}
    return Hardware(
        name=device_name(device),
        device=str(device),
        threads=threads,
        bandwidth_points=points,
        matrix=_measure_matrix(device, threads, seconds),
        capacity=memory_bytes(device),
        by_threads=by_threads,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _outdone(kept: Hardware) -> bool:
    """Whether a short probe is much faster: then other work disturbed the stored measurement."""
    for size in (min(kept.bandwidth_points), max(kept.bandwidth_points)):
        now = BandwidthProbe(size, kept.threads, kept.device).rates(_GLANCE)
        if max(now) > _BEATEN * kept.bandwidth_points[size].best:
            return True
    with torch_threads(kept.threads):
        product = probe.matrix_rates(torch.float32, 256, kept.device, _GLANCE)
    return max(product) > _BEATEN * kept.matrix["float32"].best


def _from_json(text: str) -> Hardware:
    raw = json.loads(text)
    raw["bandwidth_points"] = {int(k): Reading(**v) for k, v in raw["bandwidth_points"].items()}
    raw["matrix"] = {k: Reading(**v) for k, v in raw["matrix"].items()}
    raw["by_threads"] = {
        int(k): {name: Reading(**v) for name, v in both.items()}
        for k, both in raw["by_threads"].items()
    }
    return Hardware(**raw)


def measure_hardware(
    device: Device = "cpu",
    threads: int | None = None,
    remeasure: bool = False,
    seconds: float = 0.15,
) -> Hardware:
    """Measure this machine, or read the stored measurement unless a probe shows it is too low.

    device: cpu, cuda or mps. threads: torch threads (default: the cores this process may use).
    seconds: time for each point. It takes about 15 s on two cores.
    """
    count = threads or cores_allowed()
    mark = (
        f"{_VERSION}|{device_name(device)}|{device}|{count}|{cores_allowed()}|{torch.__version__}"
    )
    key = hashlib.sha256(mark.encode()).hexdigest()[:12]
    path = cache_dir() / "hardware" / f"{key}.json"
    if path.exists() and not remeasure:
        try:
            kept = _from_json(path.read_text(encoding="utf-8"))
            if not _outdone(kept):
                return kept
        except (ValueError, KeyError, TypeError):
            pass  # cut short, or written by hand: measure again
    hardware = _measure(device, count, seconds)
    with contextlib.suppress(OSError):  # a measurement that cannot be stored is still valid
        atomic_write(path, json.dumps(asdict(hardware), indent=1))
    return hardware
