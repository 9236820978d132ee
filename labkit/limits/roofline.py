"""The limit: cost over hardware (Williams et al., Roofline, 2009; LLM-Viewer, 2402.16363).

A pass takes at least max(bytes / bandwidth, FLOPs / rate): reading and computing may overlap, and
neither can be left out. Where the bytes fit a last-level cache whose bandwidth nobody printed, only
computing is a limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from labkit.limits.cost import ELEMENT_BYTES, Cost, bytes_of_rows, step_cost, weight_bytes
from labkit.limits.hardware import Hardware
from labkit.model.config import ModelConfig


@dataclass(frozen=True)
class Limit:
    """The least time of a pass in seconds, and what sets it.

    memory_seconds: 0 where memory sets no limit, because the bytes fit the last-level cache.
    """

    memory_seconds: float
    compute_seconds: float

    @property
    def seconds(self) -> float:
        return max(self.memory_seconds, self.compute_seconds)

    @property
    def bound(self) -> str:
        return "memory" if self.memory_seconds >= self.compute_seconds else "compute"

    def rate(self, tokens: int = 1) -> float:
        """tokens/s when the pass yields (or reads) `tokens`; infinite where nothing is known."""
        return tokens / self.seconds if self.seconds else math.inf


def limit(cost: Cost, hardware: Hardware, bandwidth: float | None = None) -> Limit:
    """The limit of a pass. bandwidth: bytes/s measured just now, in place of the machine's own."""
    computing = cost.flops / hardware.rate(cost.dtype)
    if bandwidth is None:
        if hardware.in_cache(cost.read_bytes):
            return Limit(0.0, computing)
        bandwidth = hardware.bandwidth(cost.read_bytes)
    return Limit(cost.read_bytes / bandwidth, computing)


def least_seconds(
    cost: Cost, hardware: Hardware, attention: str = "", slowest: bool = False
) -> float:
    """The least seconds of a pass whose attention is computed in another dtype than its products.

    attention: that dtype; empty where it is the same. Both run on the same cores, so their times
    add up. slowest: by the slowest sustained rates, not by the best; infinite where none is known.
    """
    nbytes, dtype = cost.read_bytes, attention or cost.dtype
    if not slowest:
        products = limit(replace(cost, attention_flops=0.0), hardware)
        computing = products.compute_seconds + cost.attention_flops / hardware.rate(dtype)
        return max(products.memory_seconds, computing)
    bandwidth = hardware.slowest_bandwidth(nbytes)
    rates = hardware.slowest_rate(cost.dtype), hardware.slowest_rate(dtype)
    if not bandwidth or not all(rates):
        return math.inf
    computing = cost.matrix_flops / rates[0] + cost.attention_flops / rates[1]
    return max(nbytes / bandwidth, computing)


def critical_batch(
    config: ModelConfig,
    hardware: Hardware,
    dtype: str,
    context: int = 0,
    kv_dtype: str | None = None,
) -> float:
    """The batch from which a decode step is compute bound, not memory bound.

    context: tokens of each sequence, kept in kv_dtype (by default as `dtype`). Each sequence reads
    its own keys and values: where that takes longer than computing its row, the batch is infinite.
    """
    a_token = config.kv_bytes_per_token(ELEMENT_BYTES[kv_dtype or dtype])
    one = step_cost(config, context, dtype=dtype, kv_bytes_per_token=a_token)
    batch, before = 1.0, 0.0
    while batch > 1.001 * before:  # the larger a batch, the more experts of a mixture it reads
        before = batch
        nbytes = bytes_of_rows(config, one.weight_bytes, before)
        bandwidth = hardware.bandwidth(nbytes + before * one.kv_read_bytes)
        spare = one.flops / hardware.rate(dtype) - one.kv_read_bytes / bandwidth
        if spare <= 0:
            return math.inf
        batch = nbytes / bandwidth / spare
    return batch


def fits(config: ModelConfig, hardware: Hardware, dtype: str) -> bool:
    """Whether the weights fit the machine's memory at all."""
    return hardware.capacity == 0 or weight_bytes(config, dtype) <= hardware.capacity
