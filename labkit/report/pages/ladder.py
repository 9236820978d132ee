"""The ladder of a run as a picture: rates on a logarithmic axis, intervals, limits as bands.

A template draws it as inline SVG. matplotlib would take a second to import, and a run writes its
page again after each notebook.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

from labkit.report.told import answer
from labkit.report.told.answer import Rung
from labkit.report.told.finding import Finding

_ROWS = 14  # at most, so that the picture fits the first screen
_LEAST, _MOST = 1e-9, 1e12  # tokens/s; nothing beyond is drawn
_APART = 34  # pixels between labels of the axis, at least
_SHORT = {"ours": "ours", "another engine": "other", "engine not stated": "unknown"}


class Size(NamedTuple):
    """Pixels: of the picture, of the columns left and right of the axis, of a row; and how many
    letters of a name fit."""

    kind: str
    width: int
    names: int
    values: int
    row: int
    letters: int


SIZES = (Size("wide", 500, 160, 58, 19, 27), Size("tall", 358, 140, 60, 17, 22))


class Axis(NamedTuple):
    """A logarithmic axis from `low` to `high`, drawn from pixel `start` on, `width` wide."""

    low: float
    high: float
    start: float
    width: float

    def at(self, value: float) -> float:
        """The pixel of a value; one outside lies at an end."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + self.width * min(max(share, 0.0), 1.0)

    def ticks(self) -> list[float]:
        """Round numbers whose labels have room: 1-2-5, else 1-3, else powers of ten, or fewer."""
        room = 1 + int(self.width / _APART)
        for steps in ((1, 2, 5), (1, 3), (1,)):
            found = _round_numbers(self.low, self.high, steps)
            if 2 <= len(found) <= room:
                return found
        powers = _round_numbers(self.low, self.high, (1,))
        return powers[:: max(1, math.ceil(len(powers) / room))] or [self.low, self.high]


def _round_numbers(low: float, high: float, steps: Sequence[int]) -> list[float]:
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    found = [float(f"{step}e{decade}") for decade in decades for step in steps]
    return [value for value in found if low <= value <= high]


def axis_of(values: Sequence[float], start: float, width: float) -> Axis:
    """An axis that holds these values, all above 0, and begins and ends at a round number."""
    low, high = min(values), max(values)
    around = _round_numbers(low / 20, high * 20, (1, 2, 5))
    first = max(value for value in around if value <= low)
    last = min(value for value in around if value >= high)
    if first == last:
        place = around.index(first)
        first, last = around[place - 1], around[place + 1]
    return Axis(first, last, start, width)


def _drawn(value: float | None) -> TypeGuard[float]:
    return value is not None and _LEAST < value < _MOST


def chosen(rungs: Sequence[Rung], always: Sequence[str], most: int = _ROWS) -> list[Rung]:
    """The rungs that are drawn, the fastest first: those named in `always`, and of the others as
    many as there is room for."""
    kept = [rung for rung in rungs if rung.name in always]
    others = [rung for rung in rungs if rung.name not in always]
    shown = {*kept, *others[: max(0, most - len(kept))]}
    return [rung for rung in rungs if rung in shown]


def picture(findings: Sequence[Finding]) -> dict[str, Any] | None:
    """What the template draws and tells; None where the run has no ladder.

    `drawings`: one a size. `rungs` and `drafts`: rows of the data table, all of them. `left_out`:
    how many rungs are not drawn. `alt`: the picture in words.
    """
    group = answer.ladder(findings)
    rungs, best = answer.rungs(group), answer.best(group)
    if not rungs:
        return None
    drafts = answer.drafts(findings)
    always = [group[0].baseline, *([best.variant] if best else [])]
    shown = chosen(rungs, always, _ROWS - bool(drafts))
    return {
        "drawings": [_drawing(size, shown, drafts) for size in SIZES],
        "rungs": rungs,
        "drafts": drafts,
        "left_out": len(rungs) - len(shown),
        "banded": any(rung.limit for rung in shown),
        "kinds": list(dict.fromkeys(_SHORT[rung.whose] for rung in shown)),
        "alt": _alt(shown, drafts),
        "notebook": group[0].notebook,
    }


def _alt(rungs: Sequence[Rung], drafts: Sequence[Finding]) -> str:
    told = [f"{rung.name} ({rung.whose}) {answer.rate(rung.value)}" for rung in rungs]
    if drafts:
        told.insert(0, f"with drafts {_range(drafts)}")
    return f"Tokens a second in decode, the fastest first: {'; '.join(told)}."


def _range(drafts: Sequence[Finding]) -> str:
    low, high = (answer.rate(end(one.value for one in drafts)) for end in (min, max))
    return low if low == high else f"{low}–{high}"


def _drawing(size: Size, rungs: Sequence[Rung], drafts: Sequence[Finding]) -> dict[str, Any]:
    """One picture: its rows from the top on, each with the pixels of its marks."""
    ends = [end for rung in rungs for end in rung[2:] if _drawn(end)]
    width = size.width - size.names - size.values
    axis = axis_of([*ends, *(one.value for one in drafts)], size.names, width)
    rows = [_with_drafts(axis, drafts)] if drafts else []
    rows += [_row(size, axis, rung) for rung in rungs]
    for number, row in enumerate(rows):
        row["y"] = _px(size.row * (number + 0.5))
    bottom = size.row * len(rows)
    return {
        "kind": size.kind,
        "width": size.width,
        "height": bottom + 34,
        "bottom": bottom,
        "start": size.names,
        "end": size.names + width,
        "middle": _px(size.names + width / 2),
        "ticks": [(_px(axis.at(value)), _tick(value)) for value in axis.ticks()],
        "rows": rows,
    }


def _row(size: Size, axis: Axis, rung: Rung) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": _short(rung.name, size.letters),
        "value": answer.rate(rung.value),
        "whose": _SHORT[rung.whose],
        "x": _px(axis.at(rung.value)),
        "whisker": None,
        "band": None,
    }
    if rung.low is not None and rung.high is not None:
        row["whisker"] = (_px(axis.at(rung.low)), _px(axis.at(rung.high)))
    if _drawn(rung.limit):
        low = rung.limit_low if _drawn(rung.limit_low) else rung.limit
        row["band"] = (_px(axis.at(low)), _px(axis.at(rung.limit) - axis.at(low)))
        row["limit"] = _px(axis.at(rung.limit))
    return row


def _with_drafts(axis: Axis, drafts: Sequence[Finding]) -> dict[str, Any]:
    """A row with the range of the rates with drafts, over kinds of task."""
    low, high = (end(one.value for one in drafts) for end in (min, max))
    return {
        "name": "with drafts, by task",
        "value": _range(drafts),
        "whose": "range",
        "whisker": (_px(axis.at(low)), _px(axis.at(high))),
        "band": None,
    }


def _px(place: float) -> str:
    return f"{place:.1f}"


def _tick(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _short(name: str, letters: int) -> str:
    return name if len(name) <= letters else f"{name[: letters - 1]}…"
