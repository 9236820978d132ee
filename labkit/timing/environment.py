"""What a run records of its machine: all that is needed to check a number or to repeat it."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from labkit.base.cores import cores
from labkit.base.device import Device, cores_allowed, cpu_name, device_name, memory_bytes
from labkit.timing.revision import changed, revision

_PACKAGES = ("torch", "transformers", "numpy", "scipy", "safetensors", "gguf", "papermill")


def _governor() -> str | None:
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment(device: Device = "cpu") -> dict[str, Any]:
    """Machine, versions and time, as plain JSON values. It contains no path and no host name."""
    load, here = psutil.getloadavg(), Path(__file__).parent
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_name(),
        "device": device_name(device),
        "cores_allowed": cores_allowed(),
        "threads": cores_allowed(),
        "cores": cores().describe(),
        "governor": _governor(),
        "memory_bytes": memory_bytes(),
        "load_average": [round(value, 2) for value in load],
        "versions": _versions(),
        "git_revision": revision(here),
        "git_changed": changed(here),
    }
