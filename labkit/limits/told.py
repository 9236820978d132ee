"""When this machine was measured, and whether other work disturbed it, in words."""

from __future__ import annotations

from datetime import UTC, datetime

from labkit.base.interference import LOST
from labkit.limits.hardware import Hardware

REMEASURE = "`labkit limit --remeasure`"
NOT_KEPT = "The measurement is not kept: stop the other work, and the next call measures again."
_FRESH = 60.0  # seconds for which a measurement needs no hint
# The largest unit that fits, and from which age on it is used: 90 minutes are told as minutes.
_UNITS = ((86_400.0, "days", 2), (3600.0, "hours", 2), (60.0, "minutes", 1))


def age(hardware: Hardware) -> float:
    """Seconds since a measurement; ValueError or TypeError for a time that is none."""
    return (datetime.now(UTC) - datetime.fromisoformat(hardware.measured_at)).total_seconds()


def told_age(seconds: float) -> str:
    """130 -> 2 minutes ago."""
    for length, unit, least in _UNITS:
        if (count := int(seconds // length)) >= least:
            return f"{count} {unit[:-1] if count == 1 else unit} ago"
    return "just now"


def measured_when(hardware: Hardware, remedy: str = f"{REMEASURE} measures again") -> str:
    """When it was measured, how long ago that is, and, unless it was just now, what measures it
    again."""
    try:
        seconds = age(hardware)
    except (ValueError, TypeError):
        return f"measured {hardware.measured_at or 'at an unknown time'}; {remedy}"
    hint = f"; {remedy}" if seconds >= _FRESH else ""
    return f"measured {hardware.measured_at}, {told_age(seconds)}{hint}"


def disturbed(hardware: Hardware) -> bool:
    """Whether other work had more than the share LOST of the core time of the measurement."""
    return hardware.lost is not None and hardware.lost > LOST


def told_disturbed(hardware: Hardware, remedy: str = NOT_KEPT) -> str:
    """How much other work had of a disturbed measurement, and what to do; else empty."""
    if not disturbed(hardware):
        return ""
    return (
        f"Other work had {hardware.lost:.0%} of the core time while this machine was measured "
        f"({LOST:.0%} are allowed): it is probably faster, and its limits are higher. {remedy}"
    )
