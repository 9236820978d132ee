"""What physics or the vendor allows a device at most: no measured rate may be above it.

A rate above the ceiling means that the clock did not wait for the work, or that the work was not
done. A known accelerator has its datasheet. For an unknown one the ceiling follows from its memory
clock and bus width, and from its clock and number of processors; for a CPU from its cores, the
highest clock that is sold, and its vector width. These are bounds, and far from tight: they catch
wrong clocks, not small errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from labkit.base.device import Device, cores_allowed, device_name, gpu_properties, kind
from labkit.base.native import cpu_features
from labkit.base.units import scaled
from labkit.errors import ImpossibleRate
from labkit.limits.cost import Cost
from labkit.limits.datasheet import known_device

BANDWIDTH_SLACK = 1.05  # over a printed bandwidth: vendors round
_HIGHEST_CLOCK = 6.5e9  # Hz; above every processor that is sold
_LOADS = 2 * 64  # bytes that a core, or a GPU's multiprocessor, reads in a cycle, at most
_PARTLY = 4  # a set of so many times the cache's size may still be read from it in part
# FLOPs (or int8 operations) of one core in a cycle, at most, by vector unit: two units, two
# operations a multiply-add. AMX and the matrix units of Apple's processors work on whole tiles.
_VECTOR = {"float32": 64.0, "bfloat16": 128.0, "float16": 128.0, "int8": 256.0}
_TILE = {"float32": 512.0, "bfloat16": 2048.0, "float16": 2048.0, "int8": 4096.0}
# The same for one multiprocessor of any GPU up to 2026 (Blackwell: 16,384 of FP8 a cycle).
_GPU = {"float32": 512.0, "bfloat16": 16384.0, "float16": 16384.0, "int8": 32768.0}


@dataclass(frozen=True)
class Ceiling:
    """The most that a device can do; where something is not known, there is no bound.

    bandwidth: bytes/s of its memory. cache_bandwidth: of its caches, which serve sets that are not
    much larger than `cache` bytes. matrix: FLOP/s by dtype.
    """

    device: str
    source: str
    bandwidth: float = math.inf
    matrix: dict[str, float] = field(default_factory=dict)
    cache: float = 0.0
    cache_bandwidth: float = math.inf

    def check_bandwidth(self, rate: float, working_set: float = math.inf) -> float:
        """The rate of reading a set of so many bytes again and again, in bytes/s; ImpossibleRate
        where it is above the ceiling."""
        cached = working_set <= _PARTLY * self.cache
        most = self.cache_bandwidth if cached else self.bandwidth
        return self._check(rate, most, "reading", "B/s")

    def check_matrix(self, rate: float, dtype: str) -> float:
        """The rate of products in `dtype`, FLOP/s; ImpossibleRate where it is above the ceiling."""
        return self._check(rate, self.matrix.get(dtype, math.inf), f"{dtype} products", "FLOP/s")

    def check_pass(self, cost: Cost, seconds: float) -> None:
        """ImpossibleRate where a pass of this cost cannot take so few seconds on the device."""
        if not seconds > 0:
            raise ImpossibleRate(
                f"a pass on {self.device} was measured to take {seconds:g} s: the clock stood "
                "still."
            )
        self.check_bandwidth(cost.read_bytes / seconds, cost.read_bytes)
        self.check_matrix(cost.flops / seconds, cost.dtype)

    def _check(self, rate: float, most: float, what: str, unit: str) -> float:
        if not rate <= most:
            raise ImpossibleRate(
                f"{what} on {self.device} was measured at {scaled(rate, unit)}, and it allows at "
                f"most {scaled(most, unit)} ({self.source}). The clock did not wait for the work, "
                "or the work was not done. Nothing measured here can be used."
            )
        return rate


def ceiling(device: Device = "cpu") -> Ceiling:
    """The ceiling of a device of this machine."""
    name = device_name(device)
    if kind(device) == "cpu":
        return _processor(name)
    given = _properties(device)
    found = of_properties(name, given) if given else Ceiling(name, "no ceiling is known for it")
    printed = known_device(name)
    if printed is None:
        return found
    most = max(reading.best for reading in printed.bandwidth_points.values())
    rates = {dtype: reading.best for dtype, reading in printed.matrix.items()}
    return replace(found, source=printed.source, bandwidth=BANDWIDTH_SLACK * most, matrix=rates)


def _properties(device: Device) -> Any:
    """What the driver says of a GPU; None where there is no such driver."""
    return gpu_properties(device) if kind(device) == "cuda" else None


def of_properties(name: str, given: Any) -> Ceiling:
    """The ceiling of an unknown GPU by what its driver says.

    given: torch's device properties; clocks in kHz, the width of the bus in bits.
    """
    clock, width = getattr(given, "memory_clock_rate", 0), getattr(given, "memory_bus_width", 0)
    # Two transfers a clock; newer memories count their clock so that it is four.
    bandwidth = 4 * clock * 1e3 * width / 8 or math.inf
    cycles = given.multi_processor_count * (getattr(given, "clock_rate", 0) * 1e3 or 4e9)
    return Ceiling(
        name,
        "from its clocks, bus and processors",
        bandwidth,
        {dtype: cycles * flops for dtype, flops in _GPU.items()},
        cache=getattr(given, "L2_cache_size", 0),
        cache_bandwidth=cycles * _LOADS,
    )


def _processor(name: str) -> Ceiling:
    cycles = cores_allowed() * _HIGHEST_CLOCK
    tiles = "amx" in cpu_features() or "Apple" in name
    a_cycle = _TILE if tiles else _VECTOR
    rates = {dtype: cycles * flops for dtype, flops in a_cycle.items()}
    source = f"{cores_allowed()} cores, {scaled(_HIGHEST_CLOCK, 'Hz')}, the widest vectors"
    return Ceiling(name, source, cycles * _LOADS, rates)
