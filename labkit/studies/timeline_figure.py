"""The picture of who was computed when: a line a request, and below it the rows of each pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labkit.engine.records import PassRecord
from labkit.engine.timeline import State, Sum, requests_of, spans, sums
from labkit.errors import ParameterError
from labkit.report.told.plots import COLORS, new_figure, show, table

Box = tuple[float, float, float, float]  # left, right, low and high edge

MOST_REQUESTS = 48  # lines that can be told apart
# Colour and pattern: the picture can be read without colours.
_BLUE, _ORANGE, _GREEN, _PURPLE, _GREY, _OCHRE = COLORS
_DRAWN: dict[State, tuple[str, str, float]] = {  # colour, hatch, height of the bar
    State.WAITING: (_GREY, "", 0.12),
    State.PREFILL: (_ORANGE, "", 0.72),
    State.AGAIN: (_PURPLE, "////", 0.72),
    State.DECODE: (_BLUE, "", 0.72),
    State.VERIFY: (_GREEN, "|||", 0.72),
    State.HELD: (_OCHRE, "", 0.3),
    State.PREEMPTED: (_PURPLE, "", 0.12),
}


def draw(
    records: Sequence[PassRecord],
    alt: str,
    caption: str = "",
    due: Mapping[int, float] | None = None,
    names: Mapping[int, str] | None = None,
) -> None:
    """Draw the timeline of records, and its data as a table below.

    Top: each request's spans by state. Middle: rows of each pass. Below: blocks of the cache, where
    the records tell of any. Times are from the first record. due: when each request was due.
    names: of requests, else their numbers. Raises ParameterError for no record or too many
    requests.
    """
    requests = requests_of(records)
    if not requests or len(requests) > MOST_REQUESTS:
        raise ParameterError(
            f"a timeline of {len(requests)} requests: allowed are 1 to {MOST_REQUESTS}. Choose a "
            "shorter time with labkit.engine.timeline.within."
        )
    shown = {number: (names or {}).get(number, str(number)) for number in requests}
    with_blocks = any(record.blocks for record in records)
    heights = [0.22 * len(requests) + 0.6, 1.2, *[1.2] * with_blocks]
    figure, _ = new_figure(7.6, sum(heights) + 0.6)
    figure.clear()
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    _draw_spans(axes[0], records, due or {}, shown)
    _draw_rows(axes[1], records)
    if with_blocks:
        _draw_blocks(axes[2], records)
    for one in axes:
        one.margins(x=0)
    axes[-1].set_xlabel("time, ms")
    show(figure, alt, caption)
    table([_row(one, records[0].start, shown) for one in sums(records, due)], "Requests")


def _draw_spans(
    axes: Any, records: Sequence[PassRecord], due: Mapping[int, float], names: Mapping[int, str]
) -> None:
    """Bars, a line a request: names of all of them, in the order of the lines."""
    from matplotlib.patches import PathPatch

    start, line = records[0].start, {request: at for at, request in enumerate(names)}
    by_state: dict[State, list[Box]] = {}
    for span in spans(records, due):
        height, middle = _DRAWN[span.state][2], line[span.request]
        by_state.setdefault(span.state, []).append(
            (1e3 * (span.start - start), 1e3 * (span.end - start), middle - height / 2,
             middle + height / 2)
        )  # fmt: skip
    for state in (state for state in State if state in by_state):
        color, hatch, _ = _DRAWN[state]
        patch = PathPatch(_boxes(by_state[state]), facecolor=color, linewidth=0, label=state)
        patch.set_hatch(hatch)
        axes.add_patch(patch)
    axes.autoscale_view()
    axes.set_yticks(range(len(names)), list(names.values()))
    axes.set(ylabel="request", ylim=(len(names) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4)


def _boxes(boxes: Sequence[Box]) -> Any:
    """All boxes as one path: thousands of elements would make the page heavy."""
    from matplotlib.path import Path

    corners = [((x, y), (z, y), (z, w), (x, w), (x, y)) for x, z, y, w in boxes]
    one = [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY]
    return Path([point for box in corners for point in box], one * len(boxes))


def _draw_rows(axes: Any, records: Sequence[PassRecord]) -> None:
    """A step a pass, and none between passes."""
    start, decode, prefill = records[0].start, list[int](), list[int]()
    edges = [1e3 * (time - start) for one in records for time in (one.start, one.end)]
    for one in records:
        decode += [one.decode, 0]
        prefill += [one.decode + one.prefill, 0]
    axes.stairs(prefill[:-1], edges, baseline=decode[:-1], fill=True, color=_ORANGE, linewidth=0)
    axes.stairs(decode[:-1], edges, fill=True, color=_BLUE, linewidth=0)
    axes.set(ylabel="rows of a pass", ylim=(0, None))


def _draw_blocks(axes: Any, records: Sequence[PassRecord]) -> None:
    """Steps: what the engine held when each pass ended, drawn over the whole pass."""
    told = [records[0], *records]
    ends = [0.0, *(1e3 * (one.end - records[0].start) for one in records)]
    held = [one.blocks_held for one in told]
    cached = [one.blocks_held + one.blocks_cached for one in told]
    axes.fill_between(ends, held, step="pre", color=_BLUE, alpha=0.7, linewidth=0, label="held")
    axes.fill_between(ends, held, cached, step="pre", color=_GREEN, alpha=0.7, linewidth=0,
                      label="cached")  # fmt: skip
    axes.axhline(records[0].blocks, color=_GREY, linewidth=1, linestyle="--", label="all")
    axes.set(ylabel="blocks", ylim=(0, None))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)


def _row(one: Sum, start: float, names: Mapping[int, str]) -> dict[str, object]:
    """A request as a row of the data table; times in ms from the first pass."""
    return {
        "request": names[one.request],
        "due, ms": None if one.due is None else 1e3 * (one.due - start),
        "first pass, ms": 1e3 * (one.first - start),
        "last pass, ms": 1e3 * (one.last - start),
        "passes": one.passes,
        "prefill rows": one.prefill_rows,
        "decode rows": one.decode_rows,
        "preempted": one.preemptions,
    }
