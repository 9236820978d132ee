"""The stamp of a run: everything needed to doubt a number or to get it again."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = ("torch", "transformers", "numpy", "scipy", "safetensors", "gguf", "papermill")


def cores_allowed() -> int:
    """Cores this process may run on: its affinity where the system has one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return psutil.cpu_count(logical=False) or os.cpu_count() or 1


@cache
def cpu_name() -> str:
    """The processor's own name."""
    import cpuinfo

    return str(cpuinfo.get_cpu_info().get("brand_raw") or platform.processor() or "unknown CPU")


def device_name(device: str = "cpu") -> str:
    """The name of the device that computes."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    if device == "mps":
        return f"{cpu_name()} GPU"
    return f"{cpu_name()}, {cores_allowed()} cores"


def memory_bytes(device: str = "cpu") -> int:
    """Memory of the device."""
    if device == "cuda":
        import torch

        return int(torch.cuda.get_device_properties(0).total_memory)
    return int(psutil.virtual_memory().total)


def _governor() -> str | None:
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return None


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment(device: str = "cpu", threads: int | None = None) -> dict[str, Any]:
    """Machine, versions and moment, as plain JSON values. Holds no path and no host name."""
    load = psutil.getloadavg()
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_name(),
        "device": device_name(device),
        "cores_allowed": cores_allowed(),
        "threads": threads or cores_allowed(),
        "governor": _governor(),
        "memory_bytes": memory_bytes(),
        "load_average": [round(value, 2) for value in load],
        "versions": _versions(),
        "git_revision": _git("rev-parse", "--short", "HEAD"),
        "git_changed": bool(_git("status", "--porcelain")),
    }
