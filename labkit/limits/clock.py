"""Whether a clock waits for the work that it times, found out in independent ways.

Twice the work takes twice the time. A clock that does not wait shows the time of handing the work
over, which is nearly the same for both. On an accelerator nothing may be left to wait for after the
wait, and a GPU's own events must agree with the host's clock. All this is checked before a rate is
believed.
"""

from __future__ import annotations

import time

import torch

from labkit.base.device import Device, kind, synchronize
from labkit.base.units import seconds
from labkit.errors import ImpossibleRate
from labkit.limits.work import Work, spell

_AGREE = 0.1  # two ways may differ by this share on a device
# A CPU computes before it returns, and other processes may disturb either time: there only a time
# that hardly grows is held against the clock.
_HARDLY = 0.45
_LASTING = 0.03  # seconds of the smaller amount of work
_TRIES = 6  # other work on the machine disturbs a pair; a clock that lies does so every time


def _timed(work: Work, count: int) -> float:
    """Seconds of `count` repetitions by the host's clock."""
    synchronize(work.device)
    start = time.perf_counter()
    work.repeat(count)
    synchronize(work.device)
    return time.perf_counter() - start


def twice_the_work(work: Work, count: int) -> float:
    """The time of 2 * count repetitions over that of count, from the fastest of several pairs."""
    pairs = [(_timed(work, count), _timed(work, 2 * count)) for _ in range(5)]
    return min(twice for _, twice in pairs) / max(min(once for once, _ in pairs), 1e-9)


def by_events(work: Work, count: int) -> float | None:
    """Seconds of `count` repetitions by the device's own events; None for a device without any."""
    if kind(work.device) != "cuda":
        return None
    with torch.cuda.device(work.device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work.repeat(count)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


def read_back(device: Device) -> None:
    """Bring one number from the device to the host: it waits for all that is queued before it."""
    torch.zeros(1, device=device).item()


def left_over(work: Work, count: int) -> float:
    """The share of the time of `count` repetitions that was still to be done after the wait.

    `synchronize` and reading a number back wait for the same work in two independent ways: after
    the first, there must be nothing left to wait for.
    """
    waited = _timed(work, count)
    start = time.perf_counter()
    read_back(work.device)
    after = time.perf_counter() - start
    return after / (waited + after)


def check_clock(work: Work) -> None:
    """Raise ImpossibleRate where the clock does not wait for this work.

    It tries several times, because other work on a shared machine can disturb both ways.
    """
    work.repeat(1)
    count = max(1, round(_LASTING / spell(work, _LASTING).seconds))
    told = ""
    for _ in range(_TRIES):
        told = _doubt(work, count)
        if not told:
            return
    raise ImpossibleRate(f"{work.name}: {told}. The clock cannot be trusted on {work.device}.")


def _doubt(work: Work, count: int) -> str:
    """What speaks against the clock, in words; empty where nothing does."""
    growth = twice_the_work(work, count)
    shared = kind(work.device) == "cpu"
    if growth / 2 < 1 - _HARDLY or (not shared and abs(growth / 2 - 1) > _AGREE):
        return f"twice the work took {growth:.2f} times as long, and not twice"
    if not shared and (left := left_over(work, count)) > _AGREE:
        return f"after the wait, {left:.0%} of the time was still to come"
    own = by_events(work, count)
    if own is None:
        return ""
    host = min(_timed(work, count) for _ in range(3))
    if abs(host / own - 1) <= _AGREE:
        return ""
    return f"it took {seconds(host)} by the host's clock and {seconds(own)} by the device's events"
