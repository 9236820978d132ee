"""What a prefix cache can gain at most: the first token from memory, from disk, and computed again.

A prompt is a shared prefix and tokens of its own. In memory the prefix costs nothing but that the
own rows attend to it. From disk its keys and values must be read. Without a cache it is computed.
Reading pays where the disk gives keys and values faster than prefill makes them: bandwidth above
bytes a token x tokens a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labkit.errors import ParameterError
from labkit.limits.cost import pass_cost
from labkit.limits.hardware import Hardware
from labkit.limits.roofline import limit
from labkit.model.config import ModelConfig

# Seconds to compute `new` rows of a prompt after `before` tokens that are in the cache.
Prefill = Callable[[int, int], float]


def least_prefill(config: ModelConfig, hardware: Hardware, dtype: str = "float32") -> Prefill:
    """The limit of a prefill pass: what computes no faster on this machine."""

    def seconds(before: int, new: int) -> float:
        cost = pass_cost(config, [(before, new)], logits=1, dtype=dtype)
        return limit(cost, hardware).seconds

    return seconds


@dataclass(frozen=True)
class FirstToken:
    """Times to the first token, in seconds, for a prompt of a shared prefix and own tokens.

    prefill: seconds of a prefill, measured or its limit. kv_bytes_per_token: bytes that a token
    takes in the cache and on disk. disk_bandwidth: bytes/s of reading from it, into the cache.
    disk_seconds: before its first byte comes. Raises ParameterError.
    """

    prefill: Prefill
    kv_bytes_per_token: float
    disk_bandwidth: float
    disk_seconds: float = 0.0

    def __post_init__(self) -> None:
        positive = 0 < self.kv_bytes_per_token < math.inf and self.disk_bandwidth > 0
        if not positive or not 0 <= self.disk_seconds < math.inf:
            raise ParameterError(
                f"{self.kv_bytes_per_token} bytes a token, a disk of {self.disk_bandwidth} B/s "
                f"after {self.disk_seconds} s: allowed are numbers above 0, and 0 s and more."
            )

    def computed(self, prefix: int, own: int) -> float:
        """No cache: the whole prompt is computed."""
        return self.prefill(0, prefix + own)

    def in_memory(self, prefix: int, own: int) -> float:
        """The prefix lies in the cache: only the own tokens are computed."""
        return self.prefill(prefix, own)

    def from_disk(self, prefix: int, own: int) -> float:
        """The prefix is read from disk, then the own tokens are computed."""
        waiting = self.disk_seconds if prefix else 0.0
        return self.in_memory(prefix, own) + waiting + self.read_seconds(prefix)

    def read_seconds(self, prefix: int) -> float:
        """Seconds for the bytes of a prefix, without the wait before the first."""
        return prefix * self.kv_bytes_per_token / self.disk_bandwidth

    def break_even_bandwidth(self, prefix: int, own: int) -> float:
        """The disk's bytes/s at which reading a prefix takes as long as computing it.

        Infinite where the wait for the first byte alone takes longer.
        """
        saved = self.computed(prefix, own) - self.in_memory(prefix, own) - self.disk_seconds
        return prefix * self.kv_bytes_per_token / saved if saved > 0 else math.inf

    def pays_from(self, own: int, prefixes: Sequence[int]) -> int | None:
        """The first of these prefixes, in order, from which on the disk is faster than computing,
        for it and all longer ones; None where it is not for the longest."""
        found: int | None = None
        for prefix in sorted(prefixes, reverse=True):
            if prefix < 1 or self.from_disk(prefix, own) >= self.computed(prefix, own):
                break
            found = prefix
        return found

    def sooner_from(self, own: int, prefixes: Sequence[int], gain: float) -> int | None:
        """The first of these prefixes whose first token comes `gain` times as soon from memory."""
        for prefix in sorted(prefixes):
            if self.computed(prefix, own) >= gain * self.in_memory(prefix, own):
                return prefix
        return None


def break_even(kv_bytes_per_token: float, prefill_rate: float) -> float:
    """Bytes/s from which a disk is worth reading: bytes a token x prefill tokens a second."""
    return kv_bytes_per_token * prefill_rate


def end_to_end_gain(hit_rate: float, prefill_share: float) -> float:
    """How many times as fast a load is when a share of its prefill is not computed.

    hit_rate: of prompt tokens that are found in the cache. prefill_share: of the whole time without
    a cache. 1 / (1 - h f), by Amdahl's law. Raises ParameterError.
    """
    if not 0 <= hit_rate <= 1 or not 0 <= prefill_share <= 1 or hit_rate * prefill_share == 1:
        raise ParameterError(
            f"hit rate {hit_rate}, share of prefill {prefill_share}: allowed are 0 to 1, "
            "not both 1."
        )
    return 1 / (1 - hit_rate * prefill_share)
