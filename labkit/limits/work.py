"""Work that only reads memory or only multiplies: what a device can do at most, at this moment.

Work is repeated, and what is timed lasts so long that starting it does not count. `spell` is the
one place that takes its time.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from labkit.base import native
from labkit.base.device import Device, cores_allowed, kind, synchronize, threads
from labkit.base.memory import allocate
from labkit.base.native import NativeError
from labkit.errors import ImpossibleRate, ParameterError
from labkit.limits.ceiling import Ceiling, ceiling

_SOURCES = Path(__file__).with_name("native")
_TOO_SHORT = 1e-6  # seconds; below, the step of a clock may be all that is seen
_NOBODY = 1e17  # bytes or operations a second; ten times the fastest device of 2026
_MOST_THREADS = 1024  # more than any machine has cores; a system may refuse to start more
AT_ONCE = 0.02  # seconds of work between two looks at the clock; a launch is 1 % of it at most


class Work(Protocol):
    """Work in repetitions of `amount` bytes or operations each, on a device."""

    amount: float
    device: Device
    name: str

    def repeat(self, count: int) -> None:
        """Do it `count` times; an accelerator may only queue it."""

    def check(self, rate: float) -> float:
        """The rate, in amounts a second; ImpossibleRate where no such device can reach it."""


class Spell(NamedTuple):
    """Work done without a pause: its start and end (seconds), and the number of repetitions."""

    start: float
    end: float
    repetitions: int

    @property
    def seconds(self) -> float:
        """Seconds of one repetition."""
        return (self.end - self.start) / self.repetitions


def spell(work: Work, seconds: float) -> Spell:
    """Repeat work for about `seconds`, at least once; the rate is checked against the ceiling.

    The number of repetitions between two looks at the clock doubles until they take long enough.
    Raises ImpossibleRate.
    """
    synchronize(work.device)
    start = now = time.perf_counter()
    at_once, count = 1, 0
    while count == 0 or now - start < seconds:
        before = now
        work.repeat(at_once)
        synchronize(work.device)
        now = time.perf_counter()
        count += at_once
        _check(work, at_once, now - before)
        if now - before < AT_ONCE:
            at_once *= 2
    return Spell(start, now, count)


def _check(work: Work, count: int, seconds: float) -> None:
    """Check a rate at once: with a clock that does not wait, the next doubling might never end."""
    rate = work.amount * count / seconds if seconds > 0 else math.inf
    if seconds < _TOO_SHORT and rate < _NOBODY:
        return  # too short to be judged; it doubles
    if rate > _NOBODY:
        raise ImpossibleRate(
            f"{work.name} was measured at {rate:.2g} a second, which no device reaches: the clock "
            f"does not wait for {work.device}."
        )
    work.check(rate)


def rates(work: Work, seconds: float, spells: int = 5) -> list[float]:
    """Bytes or operations a second of several spells of `seconds`, after a first one untimed."""
    work.repeat(1)
    return [work.amount / spell(work, seconds).seconds for _ in range(spells)]


@cache
def native_library() -> ctypes.CDLL | None:
    """Our reader and int8 products, compiled on first use; None where there is no compiler."""
    try:
        path = native.build("machine", _SOURCES, [*native.native_flags(), "-O3"], "the probe")
        found = ctypes.CDLL(str(path))
    except (NativeError, OSError):
        return None
    found.lkm_read.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int]
    found.lkm_multiply.argtypes = [ctypes.c_int64, ctypes.c_int]
    found.lkm_multiply.restype = ctypes.c_int64
    found.lkm_isa.restype = ctypes.c_char_p
    return found


def _threads(count: int | None) -> int:
    """How many threads work; by default one for each core. ParameterError for an impossible number,
    at which the native reader would end the process."""
    if count and not 1 <= count <= _MOST_THREADS:
        raise ParameterError(f"threads {count}: allowed are 1 to {_MOST_THREADS}.")
    return count or cores_allowed()


def buffer(nbytes: int, device: Device = "cpu") -> Tensor:
    """nbytes of float32, written once so that every page is mapped. On huge pages: the fused
    decoder's weights lie there, and reading is faster there."""
    count = max(2, nbytes // 4)
    if kind(device) != "cpu":
        return torch.ones(count, device=device)
    return torch.from_numpy(allocate(4 * count)).view(torch.float32).fill_(1.0)


class BareRead:
    """Reads a working set again and again, and computes nothing with it.

    On a CPU by our native reader, else by torch's sum; on a GPU by a streaming kernel where Triton
    is installed. share: of another's memory, to read its first bytes instead of a buffer of its
    own.
    """

    def __init__(
        self,
        nbytes: float,
        device: Device = "cpu",
        threads: int | None = None,
        share: Tensor | None = None,
    ) -> None:
        whole = buffer(int(nbytes), device) if share is None else share[: max(2, int(nbytes) // 4)]
        self.device, self.threads, self._data = device, _threads(threads), whole
        self.amount, self.name = float(whole.nbytes), f"bare read of {whole.nbytes / 1e6:,.0f} MB"
        self._ceiling: Ceiling = ceiling(device)
        self.repeat: Callable[[int], None] = _reader(whole, device, self.threads)

    def check(self, rate: float) -> float:
        """The rate, in bytes/s; ImpossibleRate where it is above the device's ceiling."""
        return self._ceiling.check_bandwidth(rate, self.amount)


def _reader(data: Tensor, device: Device, count: int) -> Callable[[int], None]:
    """The fastest reader of a buffer on its device."""
    library = native_library() if kind(device) == "cpu" else None
    if library is not None:
        address, size = data.data_ptr(), data.nbytes // 8 * 8
        return lambda times: library.lkm_read(address, size, times, count)
    if kind(device) == "cuda":
        with contextlib.suppress(ImportError):  # without Triton
            from labkit.limits.gpu_read import streaming_reader

            if found := streaming_reader(data):
                return found
    return partial(_sum, data, count if kind(device) == "cpu" else None)


def _sum(data: Tensor, count: int | None, times: int) -> None:
    """Sum a buffer `times` times: of what torch has everywhere, a sum computes least."""
    with threads(count):
        for _ in range(times):
            data.sum()


class BareProducts:
    """Matrix products of one dtype, and nothing else; int8 accumulates in int32.

    size: of the square matrices. A repetition is one product.
    """

    def __init__(
        self,
        dtype: str,
        size: int,
        device: Device = "cpu",
        threads: int | None = None,
    ) -> None:
        self.dtype, self.device, self.threads = dtype, device, _threads(threads)
        self.amount, self.name = 2.0 * size**3, f"{dtype} products alone"
        self._ceiling = ceiling(device)
        if dtype == "int8":
            left = torch.randint(-127, 127, (size, size), dtype=torch.int8, device=device)
            # Transposed, as GPUs' int8 products want the second matrix.
            self._product: Callable[[], object] = partial(torch._int_mm, left, left.t())
        else:
            kind_of = getattr(torch, dtype)
            left = torch.randn(size, size, device=device).to(kind_of)
            self._product = partial(torch.mm, left, left, out=torch.empty_like(left))

    def repeat(self, count: int) -> None:
        """Do `count` products."""
        with threads(self.threads if kind(self.device) == "cpu" else None):
            for _ in range(count):
                self._product()

    def check(self, rate: float) -> float:
        """The rate, in FLOP/s; ImpossibleRate where it is above the device's ceiling."""
        return self._ceiling.check_matrix(rate, self.dtype)


class NativeInt8:
    """int8 products in registers, by the instruction that the fused decoder uses."""

    _ROUNDS = 100_000  # of the native loop in a repetition, some 1 ms

    device: Device = "cpu"

    def __init__(self, threads: int | None = None) -> None:
        found = native_library()
        assert found is not None, "no C++ compiler: see native_library()"
        self._library = found
        self.threads, self.dtype = _threads(threads), "int8"
        self.isa = str(found.lkm_isa().decode())
        self.amount = float(found.lkm_multiply(1, self.threads) * self._ROUNDS)
        self.name, self._ceiling = f"int8 products alone ({self.isa})", ceiling("cpu")

    def repeat(self, count: int) -> None:
        """Do `count` times a hundred thousand rounds of products on every thread."""
        self._library.lkm_multiply(count * self._ROUNDS, self.threads)

    def check(self, rate: float) -> float:
        """The rate, in operations/s; ImpossibleRate where it is above the processor's ceiling."""
        return self._ceiling.check_matrix(rate, self.dtype)


def working_sets(largest: int, smallest: int = 64 * 2**10) -> list[int]:
    """Sizes to probe: powers of two, with one between each from 8 MiB on, where caches end."""
    sizes = [2**k for k in range(int(np.log2(smallest)), int(np.log2(largest)) + 1)]
    between = [size * 3 // 2 for size in sizes if 8 * 2**20 <= size < largest]
    return sorted(sizes + between)
