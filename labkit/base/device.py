"""The one place that knows what a device is, how to wait for it, and how many cores are given.

A device is named in any form that torch accepts: "cuda", "cuda:1" or a torch.device. `kind` says
what sort of device it is; nothing else in the project compares such names. torch is imported within
the functions that need it, so that the process that watches over a run does without it.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import psutil

from labkit.base.cores import cores
from labkit.base.units import shown
from labkit.errors import DeviceError

if TYPE_CHECKING:
    import torch

Device: TypeAlias = "str | torch.device"
KINDS = ("cpu", "cuda", "mps")


@cache
def kind(device: Device) -> str:
    """The sort of a device: cpu, cuda or mps. Raises DeviceError for any other."""
    import torch

    try:
        found = torch.device(device).type
    except (RuntimeError, TypeError):
        found = ""
    if found not in KINDS:
        raise DeviceError(f"device {str(device)!r} is unknown; allowed: auto, {', '.join(KINDS)}.")
    return found


def resolve_device(device: Device = "auto") -> torch.device:
    """The device to use; "cuda" gets the number of torch's current device.

    auto: an accelerator where there is one, else the CPU. Raises DeviceError for a device that this
    machine does not have.
    """
    import torch

    if not isinstance(device, str | torch.device):
        raise DeviceError(f"device {shown(device)} is unknown; allowed: auto, {', '.join(KINDS)}.")
    counts = {
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    if device == "auto":
        device = next(name for name, count in counts.items() if count)
    name, number = kind(device), torch.device(device).index
    if (number or 0) >= counts[name]:
        here = ", ".join(
            found if count == 1 else f"{found}:0 to {found}:{count - 1}"
            for found, count in counts.items()
            if count
        )
        raise DeviceError(f"device {str(device)!r} was asked for, but torch sees only: {here}.")
    if name == "cuda":
        return torch.device(name, torch.cuda.current_device() if number is None else number)
    return torch.device(name)


def synchronize(device: Device) -> None:
    """Wait until the device has finished the work in its queue; before a time is taken."""
    import torch

    found = kind(device)
    if found == "cuda":
        torch.cuda.synchronize(device)
    elif found == "mps":
        torch.mps.synchronize()


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Run torch with `count` threads inside the block; None leaves their number as it is."""
    import torch

    before = torch.get_num_threads()
    if count is not None and count != before:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def cores_allowed() -> int:
    """Threads that this process can run at the same time all the time: its cores, its quota, and
    OMP_NUM_THREADS (labkit.base.cores)."""
    return cores().given


@cache
def cpu_name() -> str:
    """The processor's own name."""
    import cpuinfo

    return str(cpuinfo.get_cpu_info().get("brand_raw") or platform.processor() or "unknown CPU")


def device_name(device: Device = "cpu") -> str:
    """The name of a device for people; for a CPU with the cores that this process may use.

    Raises DeviceError, as the functions below do, for a device that this machine does not have.
    """
    found = "cpu" if device == "cpu" else resolve_device(device).type
    if found == "cuda":
        return str(gpu_properties(device).name)
    return f"{cpu_name()} GPU" if found == "mps" else f"{cpu_name()}, {cores_allowed()} cores"


def gpu_properties(device: Device) -> Any:
    """What the driver says of a CUDA device; DeviceError where this machine does not have it."""
    import torch

    return torch.cuda.get_device_properties(resolve_device(device))


def memory_bytes(device: Device = "cpu") -> int:
    """Bytes of a device's memory: of the GPU, else of the machine."""
    if device != "cpu" and kind(device) == "cuda":
        return int(gpu_properties(device).total_memory)
    return int(psutil.virtual_memory().total)


def last_level_cache(device: Device = "cpu") -> int:
    """Bytes of a device's last-level cache, as the system names it; 0 where it does not say."""
    if device != "cpu" and kind(device) == "cuda":
        return int(getattr(gpu_properties(device), "L2_cache_size", 0))
    sizes = [0]
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        text = (folder / "size").read_text(encoding="ascii").strip().removesuffix("K")
        sizes.append(1024 * int(text) if text.isdecimal() else 0)
    return max(sizes)
