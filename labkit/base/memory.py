"""Memory on huge pages: with pages of 4 kB, a streaming read loses up to a third of its rate."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import numpy as np

_HUGE = 2 * 2**20
_POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # Linux: "always [madvise] never"


def only_on_request() -> bool:
    """Whether this system gives huge pages only to memory that asks for them."""
    found = re.search(r"\[(\w+)\]", _POLICY.read_text()) if _POLICY.is_file() else None
    return found is not None and found[1] == "madvise"


def allocate(size: int, huge: bool = True) -> np.ndarray:
    """Zeroed memory of `size` bytes, (size,) uint8, on huge pages where the system has them.

    huge: False asks for the system's smallest pages instead.
    """
    private = (
        {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    )
    memory = mmap.mmap(-1, size + _HUGE, **private)  # only private memory has them
    start = -np.frombuffer(memory, dtype=np.uint8).ctypes.data % _HUGE
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, dtype=np.uint8)[start : start + size]
