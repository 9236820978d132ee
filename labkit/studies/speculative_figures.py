"""The figures of notebook 05, and its view of an answer with the drafted text marked."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

from labkit.report.told.plots import new_figure, show, show_html
from labkit.timing.statistics import Ratio

_NO_CHARACTER = "\ufffd"  # what incomplete or invalid bytes decode to


def row_costs(
    measured: Mapping[int, Ratio],
    limit: Mapping[int, float],
    break_even: Sequence[Sequence[float]],
    alt: str,
    caption: str,
) -> None:
    """Left: the cost of passes of several rows. Right: the acceptance rate from which drafts pay.

    measured, limit: r(k) by the number of rows. break_even: at draft lengths 1, 2, ..., as measured
    and at the limit.
    """
    figure, (left, right) = new_figure(7.6, 3.3, columns=2)
    rows = list(measured)
    left.errorbar(
        rows,
        [one.value for one in measured.values()],
        yerr=_reach(list(measured.values())),
        fmt="o-",
        markersize=3,
        label="measured",
    )
    left.plot(rows, [limit[k] for k in rows], ":", label="limit of this machine")
    for k, (values, style) in enumerate(zip(break_even, ("-", ":"), strict=True)):
        right.plot(range(1, len(values) + 1), values, style, color=f"C{k}")
    left.set(xlabel="rows of a pass", ylabel="time over that of one row", ylim=(0, None))
    left.legend(fontsize=8)
    right.set(xlabel="tokens a draft", ylabel="acceptance rate from which it pays", ylim=(0, 1))
    show(figure, alt, caption)


def _reach(ratios: Sequence[Ratio]) -> list[list[float]]:
    """How far intervals reach below and above their values, as matplotlib takes it."""
    low = [one.value - one.low for one in ratios]
    high = [one.high - one.value for one in ratios]
    return [low, high]


def forecast_and_measured(
    points: Mapping[str, Sequence[tuple[float, Ratio]]], alt: str, caption: str
) -> None:
    """Points (forecast, measured speedup with its interval) by setting; on the dotted line both are
    equal."""
    figure, axes = new_figure(5.2, 4.2)
    every = [pair for pairs in points.values() for pair in pairs]
    top = 1.1 * max(max(told, ratio.value) for told, ratio in every)
    axes.plot([0, top], [0, top], ":", color="C4")
    for k, (name, pairs) in enumerate(points.items()):
        ratios = [ratio for _, ratio in pairs]
        axes.errorbar(
            [told for told, _ in pairs],
            [ratio.value for ratio in ratios],
            yerr=_reach(ratios),
            fmt="o",
            color=f"C{k}",
            markersize=5,
            linewidth=0.8,
            label=name,
        )
    axes.set(xlabel="forecast speedup", ylabel="measured speedup", xlim=(0, top), ylim=(0, top))
    axes.legend(fontsize=8)
    show(figure, alt, caption)


def whole_characters(
    decode: Callable[[Sequence[int]], str], tokens: Sequence[int], drafted: Sequence[bool]
) -> list[tuple[str, bool]]:
    """An answer in pieces: (text, whether all tokens of the piece came from a draft).

    A character's bytes may be split between tokens; a piece ends only where a character does. A
    character that the answer's last tokens leave unfinished is not shown.
    """
    found: list[tuple[str, bool]] = []
    shown, first = "", 0
    for end in range(1, len(tokens) + 1):
        text = decode(tokens[:end])
        if text.endswith(_NO_CHARACTER):
            continue
        found.append((text[len(shown) :], all(drafted[first:end])))
        shown, first = text, end
    return found


def drafted_text(pieces: Sequence[tuple[str, bool]]) -> None:
    """Display an answer, escaped, with the pieces that came from a draft marked."""
    plain = [
        (flag, "".join(text for text, _ in run)) for flag, run in groupby(pieces, key=itemgetter(1))
    ]
    runs = [(flag, html.escape(text)) for flag, text in plain]
    marked = "".join(f"<mark>{text}</mark>" if flag else text for flag, text in runs)
    shown = f"<blockquote><pre>{marked}</pre></blockquote>"
    show_html(shown, "".join(f"[{text}]" if flag else text for flag, text in plain))
