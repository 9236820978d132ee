"""The figures of notebook 05, and its view of an answer with the drafted text marked."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

from labkit.report.told.plots import new_figure, show, show_html

_NO_CHARACTER = "\ufffd"  # what incomplete or invalid bytes decode to


def row_costs(
    rows: Sequence[int],
    times: Mapping[str, Sequence[float]],
    break_even: Mapping[str, Sequence[float]],
    alt: str,
    caption: str,
) -> None:
    """Left: the cost of passes of several rows. Right: the acceptance rate from which drafts pay.

    times: r(k) at each of `rows`, by curve. break_even: at draft lengths 1, 2, ..., by curve. The
    first curve is drawn solid, the others dotted.
    """
    figure, (left, right) = new_figure(7.6, 3.3, columns=2)
    for k, (name, values) in enumerate(times.items()):
        left.plot(rows, values, "o-" if k == 0 else ":", markersize=3, label=name)
    for k, values in enumerate(break_even.values()):
        lengths = range(1, len(values) + 1)
        right.plot(lengths, values, "-" if k == 0 else ":", color=f"C{k}")
    left.set(xlabel="rows of a pass", ylabel="time over that of one row", ylim=(0, None))
    left.legend(fontsize=8)
    right.set(xlabel="tokens a draft", ylabel="acceptance rate from which it pays", ylim=(0, 1))
    show(figure, alt, caption)


def predicted_and_measured(points: Mapping[str, Sequence[tuple[float, float]]], alt: str) -> None:
    """Points (predicted, measured speedup), by setting; on the dotted line both are equal."""
    figure, axes = new_figure(5.2, 4.2)
    top = 1.1 * max(value for pairs in points.values() for pair in pairs for value in pair)
    axes.plot([0, top], [0, top], ":", color="C4")
    for k, (name, pairs) in enumerate(points.items()):
        predicted, measured = zip(*pairs, strict=True)
        axes.plot(predicted, measured, "o", color=f"C{k}", markersize=5, label=name)
    axes.set(xlabel="predicted speedup", ylabel="measured speedup", xlim=(0, top), ylim=(0, top))
    axes.legend(fontsize=8)
    show(figure, alt)


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
