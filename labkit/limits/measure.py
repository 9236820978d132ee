"""This machine, measured: read bandwidth by working set, matrix rate by dtype.

Every rate is sustained: a spell of reading or multiplying lasts about as long as a variant's turn
in a comparison. A run measures once and keeps the result, so that all its pages tell one limit. In
a live session the result is kept for each machine, device, thread count and torch version.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch
from tqdm.auto import tqdm

from labkit.base.device import Device, cores_allowed, device_name, kind, memory_bytes
from labkit.base.interference import Meter
from labkit.base.paths import atomic_write, cache_dir, json_in, json_text
from labkit.base.places import writable_cache, write_result
from labkit.errors import ImpossibleRate, ParameterError
from labkit.limits.ceiling import ceiling
from labkit.limits.clock import check_clock
from labkit.limits.hardware import Hardware, Reading
from labkit.limits.told import age, disturbed
from labkit.limits.work import (
    AT_ONCE,
    BareProducts,
    BareRead,
    NativeInt8,
    Work,
    buffer,
    native_library,
    rates,
    spell,
    working_sets,
)

_VERSION = 10  # of the measurement: a new one does not read old files
# If a short spell is faster than the kept measurement by this factor, other work slowed that one.
_BEATEN = 1.25
_GLANCE = 0.05  # seconds of a short spell
_RECENT = 1800.0  # seconds
SPELL = 0.4  # seconds; what a turn lasts, or longer
_SPELLS = 5
_SETTLING = 0.5  # of a spell: reading 135 MB again took 0.1 s to reach its rate
_LONGEST_PRODUCT = 1.0  # seconds
_ACCELERATOR = 0.25  # of a spell is enough where no other work shares the memory
_BY_THREADS = 256 * 2**20  # bytes that several numbers of threads read, at most
_MEMORY = 48 * 2**20  # bytes from which a working set is read for whole spells; below, a tenth


def _largest(device: Device) -> int:
    """The largest working set to read: far larger than caches, and little of the memory."""
    if kind(device) == "cpu":
        return int(min(2**30, psutil.virtual_memory().available // 8))
    return int(min(4 * 2**30, memory_bytes(device) // 8))


def _bandwidth(device: Device, threads: int, seconds: float) -> dict[int, Reading]:
    """Every size in spells that take turns, so that each size meets every state of the machine.

    The sets before it took its place in a shared cache, which fills again while it is read. So each
    is read untimed first: a read that lasts longer than a spell must not beat the limit.
    """
    sizes = working_sets(_largest(device))
    whole = buffer(sizes[-1], device)
    works = {size: BareRead(size, device, threads, share=whole) for size in sizes}
    check_clock(works[sizes[-1]])
    found: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in tqdm(range(_SPELLS), desc=f"memory, {threads} threads", leave=False):
        for size, work in works.items():
            lasting = seconds if size >= _MEMORY else seconds / 10
            spell(work, lasting * _SETTLING)
            found[size] += rates(work, lasting, 1)
    return {size: Reading.of(samples) for size, samples in found.items()}


def dtypes(device: Device) -> list[str]:
    """The dtypes whose products are measured on a device."""
    known = ["float32", "bfloat16"]
    if kind(device) != "mps":
        known.append("int8")
    return known + ([] if kind(device) == "cpu" else ["float16"])


def fastest_products(
    dtype: str, device: Device, threads: int | None = None, seconds: float = 0.1
) -> Work:
    """Products of a dtype in the form that is fastest here: small matrices suit caches, large ones
    accelerators. int8 on a CPU by the fused decoder's own instruction, where a compiler is here.

    A size is skipped if a single product would take more than a second. Where a dtype has no fast
    path (bfloat16 on many CPUs), large products would take minutes and show nothing new. One thread
    is tried too: where other work runs on the machine, threads may wait for each other longer than
    a small product takes.
    """
    if dtype == "int8" and kind(device) == "cpu" and native_library():
        return NativeInt8(threads)
    works: list[Work] = []
    counts = {threads, 1} if kind(device) == "cpu" else {threads}
    for size in (256, 768, 1536) if kind(device) == "cpu" else (2048, 8192):
        works += [BareProducts(dtype, size, device, count) for count in counts]
    best, fastest = works[0], 0.0
    for work in works:
        if fastest and work.amount / fastest > _LONGEST_PRODUCT:
            continue
        if (found := max(rates(work, seconds, 3))) > fastest:
            best, fastest = work, found
    return best


def _product(dtype: str, device: Device, threads: int, seconds: float) -> Reading:
    work = fastest_products(dtype, device, threads, seconds / 4)
    check_clock(work)
    # A short prefill may run before a processor has to lower its clock: short spells count too.
    short = rates(work, AT_ONCE, _SPELLS)
    return Reading.of(short + rates(work, seconds, _SPELLS))


def _by_threads(
    device: Device, threads: int, seconds: float, memory: dict[int, Reading], product: Reading
) -> dict[int, dict[str, Reading]]:
    """Memory and float32 products by number of threads. memory, product: with all threads, as the
    limit has them, so that one thing has one number."""
    if kind(device) != "cpu":
        return {}
    size = max(size for size in memory if size <= _BY_THREADS)
    whole = buffer(size)
    found = {threads: {"bandwidth": memory[size], "matrix": product}}
    for count in (2**k for k in range(10) if 2**k < threads):
        read = rates(BareRead(whole.nbytes, device, count, share=whole), seconds)
        matrix = _product("float32", device, count, seconds)
        found[count] = {"bandwidth": Reading.of(read), "matrix": matrix}
    return dict(sorted(found.items()))


def _measure(device: Device, threads: int, seconds: float) -> Hardware:
    bandwidth = _bandwidth(device, threads, seconds)
    matrix = {
        dtype: _product(dtype, device, threads, seconds)
        for dtype in tqdm(dtypes(device), desc="products", leave=False)
    }
    return Hardware(
        name=device_name(device),
        device=str(device),
        threads=threads,
        bandwidth_points=bandwidth,
        matrix=matrix,
        capacity=memory_bytes(device),
        by_threads=_by_threads(device, threads, seconds / 4, bandwidth, matrix["float32"]),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _watched(device: Device, threads: int, seconds: float) -> Hardware:
    """Measure, and count what other work had of the cores meanwhile; an accelerator has its own."""
    if kind(device) != "cpu":
        return _measure(device, threads, seconds)
    native_library()  # compiled before the meter starts
    meter = Meter()
    before = meter.now()
    found = _measure(device, threads, seconds)
    return replace(found, lost=meter.since(before).share)


def _outdone(kept: Hardware) -> bool:
    """Whether a short spell is much faster: then other work disturbed the kept measurement."""
    for size in (min(kept.bandwidth_points), max(kept.bandwidth_points)):
        (now,) = rates(BareRead(size, kept.device, kept.threads), _GLANCE, 1)
        if now > _BEATEN * kept.bandwidth_points[size].best:
            return True
    (now,) = rates(BareProducts("float32", 256, kept.device, kept.threads), _GLANCE, 1)
    return now > _BEATEN * kept.matrix["float32"].best


def _to_json(hardware: Hardware) -> str:
    return json_text(asdict(hardware), indent=1)


def _from_json(raw: Any) -> Hardware:
    raw["bandwidth_points"] = {int(k): Reading(**v) for k, v in raw["bandwidth_points"].items()}
    raw["matrix"] = {k: Reading(**v) for k, v in raw["matrix"].items()}
    raw["by_threads"] = {
        int(k): {name: Reading(**v) for name, v in both.items()}
        for k, both in raw["by_threads"].items()
    }
    return Hardware(**raw)


def _file_name(device: Device, threads: int) -> str:
    of = (_VERSION, device_name(device), device, threads, cores_allowed(), torch.__version__)
    return f"{hashlib.sha256('|'.join(map(str, of)).encode()).hexdigest()[:12]}.json"


def kept_hardware(device: Device = "cpu", threads: int | None = None) -> Hardware | None:
    """The kept measurement of this machine, as it is; None where there is none that can be used.

    It measures nothing. threads: as `measure_hardware` takes them.
    """
    check_threads(threads)
    count = threads or cores_allowed()
    kept = _read(cache_dir() / "hardware" / _file_name(device, count), device, count)
    return None if kept is None or disturbed(kept) else kept


def check_threads(threads: int | None) -> None:
    """Raise ParameterError for less than one thread, and for more than the machine has."""
    most = os.cpu_count() or 1
    if threads is not None and not 1 <= threads <= most:
        raise ParameterError(
            f"{threads} threads cannot read or multiply; give at least 1, and at most {most}."
        )


def measure_hardware(
    device: Device = "cpu",
    threads: int | None = None,
    remeasure: bool = False,
    seconds: float = SPELL,
    keep: Path | None = None,
) -> Hardware:
    """Measure this machine, or read the kept measurement.

    device: cpu, cuda or mps. threads: torch threads (default: the cores this process may use).
    seconds: of a spell. keep: a run's folder: its measurement holds for the whole run, and a new
    run takes over one of the last half hour. Without it, the measurement in the cache folder holds
    unless a short spell shows that it is too low. It takes less than a minute on two cores. A
    measurement that other work disturbed is not kept there: the next call measures again. In a run
    it holds for the whole run all the same, and the pages say so.

    Raises ImpossibleRate where the clock is wrong, ParameterError for less than one thread or more
    than there are, and UnwritableError, before it measures, where nothing can be kept.
    """
    check_threads(threads)
    count = threads or cores_allowed()
    seconds *= 1 if kind(device) == "cpu" else _ACCELERATOR
    name = _file_name(device, count)
    here = cache_dir() / "hardware" / name
    of_run = keep / "hardware" / name if keep else None
    if not remeasure and (kept := of_run and _read(of_run, device, count)):
        return kept
    hardware = None if remeasure else _usable(_read(here, device, count), recent=of_run is not None)
    if hardware is None:
        writable_cache()  # half a minute of measuring, and no place to keep it: told before it
        hardware = _watched(device, count, seconds)
        if not disturbed(hardware):
            _write(here, hardware)
    if of_run:
        write_result(of_run, _to_json(hardware), "the run's measurement", "make room there")
    return hardware


def _read(path: Path, device: Device, threads: int) -> Hardware | None:
    """A kept measurement of this device; None where there is none, or a file that was cut short or
    written by hand."""
    try:
        kept = _from_json(json_in(path))
        age(kept)
        sound = _sound(kept, device, threads)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, ImpossibleRate):
        return None
    return kept if sound else None


def _sound(kept: Hardware, device: Device, threads: int) -> bool:
    """Whether a kept measurement is of this device and could be true of it; ImpossibleRate for a
    rate above its ceiling."""
    most = ceiling(device)
    for size, reading in kept.bandwidth_points.items():
        most.check_bandwidth(reading.best, size)
    for dtype, reading in kept.matrix.items():
        most.check_matrix(reading.best, dtype)
    fewer = [found[name] for found in kept.by_threads.values() for name in ("bandwidth", "matrix")]
    readings = [*kept.bandwidth_points.values(), *kept.matrix.values(), *fewer]
    positive = all(0 < r.slowest <= r.best and r.median > 0 <= r.spread for r in readings)
    complete = bool(kept.bandwidth_points) and "float32" in kept.matrix
    named = all(isinstance(text, str) for text in (kept.name, kept.measured_at, kept.source))
    sized = min(kept.capacity, kept.cache) >= 0 and min(kept.bandwidth_points, default=0) >= 1
    same = (kept.device, kept.threads) == (str(device), threads)
    counted = kept.lost is None or 0 <= kept.lost <= 1
    return positive and complete and named and sized and same and counted


def _usable(kept: Hardware | None, recent: bool) -> Hardware | None:
    """The measurement, unless other work disturbed it, a short spell beats it, or it is too old
    where it must be recent."""
    if kept is None or disturbed(kept) or (recent and not 0 <= age(kept) <= _RECENT):
        return None
    return None if _outdone(kept) else kept


def _write(path: Path, hardware: Hardware) -> None:
    with contextlib.suppress(OSError):  # a measurement that cannot be stored is still valid
        atomic_write(path, _to_json(hardware))
