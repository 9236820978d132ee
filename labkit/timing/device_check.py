"""Whether times and rates of a device can be believed: `python -m labkit.timing.device_check`.

Prints one line a check with its figure, within a minute; the exit code is 1 where a check fails.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import click
import torch

from labkit.base.device import Device, device_name, kind, memory_bytes, resolve_device, synchronize
from labkit.base.units import scaled, seconds
from labkit.errors import ImpossibleRate, LabkitError
from labkit.limits import work as works
from labkit.limits.ceiling import ceiling
from labkit.limits.clock import by_events, twice_the_work
from labkit.limits.measure import dtypes, fastest_products
from labkit.limits.work import BareRead, Work, buffer, rates, spell
from labkit.timing.trace import clock

_AGREE = 0.1  # two ways to measure the same may differ by this share
_WEIGHTS = 2.15e9  # bytes of a model of 1.07 G parameters in bfloat16


class Check(NamedTuple):
    """One line: what was checked, the figure, and whether it is as it must be."""

    name: str
    figure: str
    good: bool = True


def _identity(device: Device) -> Iterator[Check]:
    most = ceiling(device)
    told = f"{device_name(device)}, {scaled(float(memory_bytes(device)), 'B')}"
    yield Check("device", f"{told}, as torch's {torch.device(device)}", bool(device_name(device)))
    bandwidth = scaled(most.bandwidth, "B/s")
    yield Check("ceiling", f"{bandwidth} ({most.source})", most.bandwidth < float("inf"))


def _forms(device: Device) -> list[Device]:
    """The forms in which people name this device."""
    whole = torch.device(device)
    short: list[Device] = [whole.type] if not whole.index else []
    return [*short, str(whole), whole]


def _waits(device: Device, work: Work) -> Iterator[Check]:
    """Each form of the device's name must be waited for: the same work takes the same time."""
    count = max(1, round(0.02 / spell(work, 0.05).seconds))
    taken = {
        str(form) + ("" if isinstance(form, str) else " (torch.device)"): statistics.median(
            clock(partial(work.repeat, count), form).e2e_latency for _ in range(5)
        )
        for form in _forms(device)
    }
    for form, found in taken.items():
        close = abs(found / max(taken.values()) - 1) < 2 * _AGREE
        yield Check(f"waits for {form}", f"{seconds(found)} for {count} repetitions", close)
    start = time.perf_counter()
    work.repeat(count)
    queued = time.perf_counter() - start
    synchronize(device)
    done = time.perf_counter() - start
    yield Check("queue", f"handed over after {seconds(queued)}, done after {seconds(done)}")


def _clocks(work: Work) -> Iterator[Check]:
    count = max(1, round(0.05 / spell(work, 0.05).seconds))
    growth = min((twice_the_work(work, count) for _ in range(3)), key=lambda g: abs(g - 2))
    good = abs(growth / 2 - 1) <= _AGREE
    yield Check("twice the work", f"{growth:.3f} times as long ({work.name})", good)
    own = by_events(work, count)
    if own is not None:
        host = min(clock(partial(work.repeat, count), work.device).e2e_latency for _ in range(5))
        told = f"{seconds(host)} by the host, {seconds(own)} by the device"
        yield Check("events and host", told, abs(host / own - 1) <= _AGREE)


def _launch(device: Device) -> Iterator[Check]:
    """What starting and waiting costs, as a share of what a spell times at once."""
    tiny = torch.zeros(1, device=device)
    taken = statistics.median(clock(tiny.neg, device).e2e_latency for _ in range(200))
    share = taken / works.AT_ONCE
    told = f"{seconds(taken)}, {share:.2%} of the {seconds(works.AT_ONCE)} timed at once"
    yield Check("launch and wait", told, share < 0.01)


def _reads(device: Device) -> Iterator[Check]:
    """Reading by the fastest reader at several sizes, then the largest by two other ways."""
    largest = min(4 * 2**30 if kind(device) != "cpu" else 2**29, memory_bytes(device) // 8)
    whole = buffer(largest, device)
    rate = 0.0
    for size in (largest // 64, largest // 8, largest):
        work = BareRead(size, device, share=whole)
        rate = max(rates(work, 0.3))
        yield Check(f"read {scaled(size, 'B')}", scaled(rate, "B/s"))
    other = torch.empty_like(whole)
    sums, copies = (
        _Repeated(whole.sum, whole.nbytes, device),
        _Repeated(lambda: other.copy_(whole), 2 * whole.nbytes, device),
    )
    for name, way in (("by torch's sum", sums), ("by copying, both ways counted", copies)):
        found = max(rates(way, 0.3))
        # A CPU's sum and copy are slower for reasons of their own: shown there, judged on a GPU.
        good = kind(device) == "cpu" or abs(found / rate - 1) <= _AGREE
        yield Check(
            f"read {name}", f"{scaled(found, 'B/s')}, {found / rate:.2f} of the above", good
        )
    yield Check("limit", f"{rate / _WEIGHTS:,.0f} tok/s for 1.07 G parameters in bfloat16")


class _Repeated:
    """Any function as work."""

    name = "a function"

    def __init__(self, call: Callable[[], object], amount: float, device: Device) -> None:
        self.call, self.amount, self.device = call, float(amount), device

    def repeat(self, count: int) -> None:
        for _ in range(count):
            self.call()

    def check(self, rate: float) -> float:
        return ceiling(self.device).check_bandwidth(rate)


def _products(device: Device) -> Iterator[Check]:
    for dtype in dtypes(device):
        work = fastest_products(dtype, device)
        yield Check(f"{dtype} products", scaled(max(rates(work, 0.3)), "FLOP/s"))


def _lie(device: Device) -> Iterator[Check]:
    """A rate that no device reaches must stop a run."""
    most = ceiling(device)
    try:
        most.check_bandwidth(1e18)
    except ImpossibleRate:
        yield Check("an impossible rate", "is refused")
    else:
        yield Check("an impossible rate", "passes: no ceiling is known", False)


def checks(device: Device) -> Iterator[Check]:
    """All checks of a device, one after another."""
    yield from _identity(device)
    work = BareRead(2**28, device)
    work.repeat(1)
    yield from _waits(device, work)
    yield from _launch(device)
    yield from _clocks(work)
    yield from _reads(device)
    yield from _products(device)
    yield from _lie(device)


@click.command()
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps")
def main(device: str) -> None:
    """Check that times and rates measured on a device can be believed."""
    start, failed = time.perf_counter(), 0
    try:
        for check in checks(resolve_device(device)):
            failed += not check.good
            click.echo(f"{'ok  ' if check.good else 'FAIL'}  {check.name:<32} {check.figure}")
    except LabkitError as error:
        click.echo(f"FAIL  {error}")
        failed += 1
    click.echo(f"{failed} failed, {time.perf_counter() - start:.0f} s")
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
