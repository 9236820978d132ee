"""What a run records of its machine: all that is needed to check a number or to repeat it."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from labkit.base.cores import cores
from labkit.base.device import Device, cores_allowed, cpu_name, device_name, memory_bytes

_PACKAGES = ("torch", "transformers", "numpy", "scipy", "safetensors", "gguf", "papermill")


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


def environment(device: Device = "cpu") -> dict[str, Any]:
    """Machine, versions and time, as plain JSON values. It contains no path and no host name."""
    load, status = psutil.getloadavg(), _git("status", "--porcelain")
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
        "git_revision": _git("rev-parse", "--short", "HEAD"),
        "git_changed": None if status is None else bool(status),
    }
