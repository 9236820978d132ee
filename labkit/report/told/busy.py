"""Whether the machine was busy with other work while a run measured: a line for first screens.

Each notebook leaves in its folder of traces how many turns lost how much (`keep`). A run's own
measurement of the machine says what it lost in its file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeGuard

from labkit.base.interference import LOST, Lost
from labkit.base.paths import read_json
from labkit.limits.hardware import Hardware
from labkit.limits.told import measured_when, told_disturbed
from labkit.report.told.notebook import run_folder, save_samples
from labkit.report.told.plots import say
from labkit.report.told.words import percent
from labkit.timing.compare import Comparison

FILE = "lost"  # in a notebook's folder of traces
OF_RUN = "It holds for this whole run: `FORCE=1` for all notebooks measures again."


def tell_machine(hardware: Hardware) -> None:
    """Say in a notebook what its limits are told by: where no run executes it, how old the kept
    measurement is; in both, whether other work disturbed it."""
    live = run_folder() is None
    told = (
        [f"The limits here are those of this machine, {measured_when(hardware)}."] if live else []
    )
    told.append(told_disturbed(hardware) if live else told_disturbed(hardware, OF_RUN))
    if text := " ".join(filter(None, told)):
        say(text)


def keep(notebook: str, comparisons: Iterable[Comparison]) -> None:
    """Write into the run how many turns were timed, how many lost more than LOST of their core time
    to other work, and the largest share. Nothing where nothing was counted."""
    turns = [one for each in comparisons for some in each.lost.values() for one in some]
    shares = [one.share for one in turns if one.share is not None]
    if shares:
        above = sum(share > LOST for share in shares)
        told = {"turns": len(shares), "above": above, "allowed": LOST, "largest": max(shares)}
        save_samples(notebook, FILE, told)


def mean_share(turns: Sequence[Lost]) -> float | None:
    """The share of the core time of all these turns that others had; None where not counted."""
    known = [(one.share, one.seconds) for one in turns if one.share is not None]
    whole = sum(seconds for _, seconds in known)
    return sum(share * seconds for share, seconds in known) / whole if whole else None


class _Turns(NamedTuple):
    """The turns of a notebook, those that lost more than LOST, and the largest share."""

    turns: int
    above: int
    largest: float


def _kept(run: Path, notebook: str) -> _Turns | None:
    """What a notebook kept, where some of its turns lost too much; else None, and for a file that
    holds something else."""
    held = read_json(run / "traces" / notebook / f"{FILE}.json")
    turns, above, largest = (held.get(name) for name in _Turns._fields)
    if not (_is_count(turns) and _is_count(above) and _is_share(largest)):
        return None
    return _Turns(turns, above, largest) if held.get("allowed") == LOST and above else None


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 10**9


def _is_share(value: object) -> TypeGuard[float]:
    return isinstance(value, float) and 0 <= value <= 1


def _of_machine(run: Path) -> str:
    """That the run's measurement of the machine was disturbed; empty where it was not."""
    found = [read_json(path).get("lost") for path in sorted((run / "hardware").glob("*.json"))]
    worst = max((share for share in found if _is_share(share)), default=0.0)
    if worst <= LOST:
        return ""
    return (
        f"Other work had {percent(worst)} of the core time while the machine was measured: it is "
        "probably faster than the limits here say."
    )


def of_run(run: Path, notebooks: Iterable[str]) -> str:
    """One line on a whole run; empty where the machine was quiet, or where it is not known."""
    found = [(name, one) for name in notebooks if (one := _kept(run, name))]
    each = [
        f"{one.above:,} of {one.turns:,} in {name} (up to {percent(one.largest)})"
        for name, one in found
    ]
    lost = f"Turns that lost more than {percent(LOST)} of their core time to other work: "
    told = [f"{lost}{', '.join(each)}."] if each else []
    return " ".join(filter(None, [*told, _of_machine(run)]))


def of_page(run: Path, notebook: str) -> str:
    """The same for the page of one notebook."""
    one = _kept(run, notebook)
    told = ""
    if one:
        whose = "its" if one.above == 1 else "their"
        told = (
            f"{one.above:,} of {one.turns:,} turns lost more than {percent(LOST)} of {whose} core "
            f"time to other work (up to {percent(one.largest)})."
        )
    return " ".join(filter(None, [told, _of_machine(run)]))
