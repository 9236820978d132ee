"""What batching can gain at most: on the machine, and by scheduling alone.

The machine: a pass reads the weights once for all its rows, but every request's keys and values for
itself, and computes every row. On few cores the computing soon takes longer than the reading, and
the gain ends there. Scheduling: a static batch runs until its longest answer is done, and its other
slots then stand idle; with in-flight batching a slot takes the next request at once (Orca, OSDI
2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from labkit.errors import ParameterError
from labkit.limits.cost import Cost, step_cost
from labkit.limits.hardware import Hardware
from labkit.limits.roofline import Limit, limit
from labkit.model.config import ModelConfig


@dataclass(frozen=True)
class BatchLimit:
    """The limit of one decode pass of `batch` requests.

    gain: S(B)/S(1), output tokens a second over those of one request. kv_share: of all bytes read,
    those that are keys and values.
    """

    batch: int
    cost: Cost
    limit: Limit
    gain: float

    @property
    def rate(self) -> float:
        """Output tokens a second of all requests."""
        return self.limit.rate(self.batch)

    @property
    def kv_share(self) -> float:
        return self.cost.kv_read_bytes / self.cost.read_bytes


def batch_limits(
    config: ModelConfig,
    hardware: Hardware,
    batches: Sequence[int],
    context: int,
    *,
    dtype: str = "float32",
    weight_bytes: float | None = None,
    several_weight_bytes: float | None = None,
    kv_bytes_per_token: float | None = None,
) -> list[BatchLimit]:
    """The roofline's S(B)/S(1) for each batch of decoding requests of `context` tokens each.

    dtype: in which the products are computed; its rate must be known. weight_bytes,
    kv_bytes_per_token: what they really take (cost.step_cost); else as `dtype` says.
    several_weight_bytes: in a pass of more than one request, where that is another number: a head
    that is screened for one row is read in full for several. Raises ParameterError for a batch
    below 1.
    """
    if not batches or min(batches) < 1 or context < 0:
        raise ParameterError(f"batches {list(batches)}, context {context}: allowed are 1 and more.")

    def of(batch: int) -> tuple[Cost, Limit]:
        several = batch > 1 and several_weight_bytes is not None
        cost = step_cost(
            config, context, batch, dtype=dtype,
            weight_bytes=several_weight_bytes if several else weight_bytes,
            kv_bytes_per_token=kv_bytes_per_token,
        )  # fmt: skip
        return cost, limit(cost, hardware)

    alone = of(1)[1].seconds
    found: list[BatchLimit] = []
    for batch in batches:
        cost, least = of(batch)
        gain = batch * alone / least.seconds if least.seconds else math.nan
        found.append(BatchLimit(batch, cost, least, gain))
    return found


def _check_lengths(lengths: Sequence[int], slots: int) -> None:
    if not lengths or min(lengths) < 1 or slots < 1:
        raise ParameterError(
            f"{len(lengths)} lengths and {slots} slots: give lengths of 1 token and more, and at "
            "least one slot."
        )


def _check_batch(lengths: Sequence[int], batch: int) -> None:
    """ParameterError where so many lengths cannot be chosen."""
    _check_lengths(lengths, batch)
    if batch > len(lengths):
        raise ParameterError(f"a batch of {batch} cannot be chosen from {len(lengths)} lengths.")


def expected_longest(lengths: Sequence[int], batch: int) -> float:
    """E[max of B]: the longest of `batch` lengths, on average over all choices without repetition.

    By order statistics: the i-th smallest of n is the longest in C(i-1, B-1) of C(n, B) choices.
    Raises ParameterError for a batch that is larger than the list.
    """
    _check_batch(lengths, batch)
    count = len(lengths)
    share, total = batch / count, 0.0
    for place, length in zip(range(count, 0, -1), sorted(lengths, reverse=True), strict=True):
        total += share * length
        share *= (place - batch) / max(place - 1, 1)  # 0 from place B on
    return total


def static_efficiency(lengths: Sequence[int], batch: int) -> float:
    """E[len] / E[max of B]: the share of a static batch's slots that still answer.

    1/H_B for exponential lengths, H_B = 1 + 1/2 + ... + 1/B.
    """
    return float(np.mean(lengths)) / expected_longest(lengths, batch)


RowCost = Callable[[int], float]  # the time of a decode pass of so many rows


def expected_static(lengths: Sequence[int], batch: int, cost: RowCost) -> float:
    """The time of a static batch whose finished requests leave the pass, over all choices.

    cost: of a pass by its rows; where it is constant, this is cost times E[max of B]. Between two
    neighbouring lengths the number still running is hypergeometric.
    """
    _check_batch(lengths, batch)
    count, ordered = len(lengths), sorted(lengths)
    times = np.array([0.0, *(cost(rows) for rows in range(1, batch + 1))])
    total, done = 0.0, 0
    for place, length in enumerate(ordered):
        if length > done:  # passes done+1 to length, in which count - place lengths still run
            shares = stats.hypergeom.pmf(np.arange(batch + 1), count, count - place, batch)
            total += (length - done) * float(shares @ times)
            done = length
    return total


def scheduling_gain(lengths: Sequence[int], batch: int, cost: RowCost | None = None) -> float:
    """How many times as fast in-flight batching can be as static batching, by scheduling alone.

    Without a cost a pass takes the same time whatever its rows: E[max of B] / E[len]. With one, the
    finished requests of a static batch make its passes cheaper, and the gain is smaller: the static
    time of a token over that of the cheapest full-enough pass. Prefill is not counted, and the
    queue never runs dry.
    """
    if cost is None:
        return 1 / static_efficiency(lengths, batch)
    static = expected_static(lengths, batch, cost) / (batch * float(np.mean(lengths)))
    return static / min(cost(rows) / rows for rows in range(1, batch + 1))


def static_passes(lengths: Sequence[int], slots: int) -> list[int]:
    """Rows of each decode pass of static batches, in the order given; the last may be smaller."""
    _check_lengths(lengths, slots)
    rows: list[int] = []
    for first in range(0, len(lengths), slots):
        group = lengths[first : first + slots]
        rows += [sum(length > done for length in group) for done in range(max(group))]
    return rows


def in_flight_passes(lengths: Sequence[int], slots: int) -> list[int]:
    """Rows of each decode pass where the next in order takes a slot as soon as one is free."""
    _check_lengths(lengths, slots)
    waiting, running, rows = iter(lengths), [0] * slots, list[int]()
    while True:
        running = [left or next(waiting, 0) for left in running]
        busy = sum(left > 0 for left in running)
        if not busy:
            return rows
        rows.append(busy)
        running = [max(left - 1, 0) for left in running]


def finite_gain(lengths: Sequence[int], slots: int, cost: RowCost | None = None) -> float:
    """The gain for these very requests in this order, their beginning and end included."""
    each = cost or (lambda rows: 1.0)
    static = sum(map(each, static_passes(lengths, slots)))
    return static / sum(map(each, in_flight_passes(lengths, slots)))
