"""The figures of notebook 06."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from labkit.report.told.plots import label_log_axis, new_figure, show
from labkit.timing.statistics import Ratio

_TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000)  # ms


def first_token_and_loads(
    measured: Mapping[str, Mapping[int, Ratio]],
    least: Mapping[str, Mapping[int, float]],
    loads: Mapping[str, tuple[float, Ratio]],
    alt: str,
    caption: str,
) -> None:
    """Left: the first token along the shared prefix, with its limit. Right: the hit rate of each
    load, and the share of its time that was saved.

    measured: seconds with intervals, by way and length; least: the limits that were not beaten.
    loads: by name, the share of prompt tokens that was hit, and the speedup.
    """
    figure, (left, right) = new_figure(7.6, 3.6, columns=2)
    for k, (way, times) in enumerate(measured.items()):
        lengths, color = list(times), f"C{k}"
        values = [1e3 * one.value for one in times.values()]
        left.plot(lengths, values, "o-", markersize=3, color=color, label=way)
        low = [1e3 * one.low for one in times.values()]
        high = [1e3 * one.high for one in times.values()]
        left.vlines(lengths, low, high, color=color, linewidth=1)
        floor = least[way]
        left.plot(list(floor), [1e3 * one for one in floor.values()], ":", linewidth=1, color=color)
    left.set(xscale="log", yscale="log", xlabel="shared tokens", ylabel="first token, ms")
    label_log_axis(left.xaxis, _lengths(measured))
    label_log_axis(left.yaxis, _TICKS)
    left.set_title("measured, and limit (dotted)")
    left.legend(fontsize=7)
    _saved(right, loads)
    show(figure, alt, caption)


def _lengths(measured: Mapping[str, Mapping[int, Ratio]]) -> Sequence[int]:
    return sorted({length for times in measured.values() for length in times})


def _saved(axes: Any, loads: Mapping[str, tuple[float, Ratio]]) -> None:
    """Points of (hit rate, time saved), both in percent; on the dotted line both are equal."""
    axes.plot([0, 100], [0, 100], ":", color="C4")
    for k, (name, (hit_rate, speedup)) in enumerate(loads.items()):
        value, low, high = (100 * (1 - 1 / x) for x in (speedup.value, speedup.low, speedup.high))
        axes.errorbar(
            [100 * hit_rate],
            [value],
            yerr=[[value - low], [high - value]],
            fmt="o",
            color=f"C{k}",
            markersize=5,
            linewidth=0.8,
            label=name,
        )
    axes.set(xlabel="prompt tokens hit, %", ylabel="time of the load saved, %", xlim=(0, 100))
    if loads:
        axes.legend(fontsize=7)


def wrong_answers(
    rates: Mapping[str, Mapping[float, tuple[float, float, float]]], alt: str, caption: str
) -> None:
    """The share of answers from a semantic cache that are wrong, by threshold.

    rates: by way to compare and threshold, the share with its interval.
    """
    figure, axes = new_figure(5.2, 3.0)
    thresholds = sorted({threshold for of in rates.values() for threshold in of})
    places = {threshold: place for place, threshold in enumerate(thresholds)}
    for k, (way, of) in enumerate(rates.items()):
        at = [places[threshold] + 0.1 * k for threshold in of]
        values = [100 * value for value, _, _ in of.values()]
        below = [100 * (value - low) for value, low, _ in of.values()]
        above = [100 * (high - value) for value, _, high in of.values()]
        axes.errorbar(at, values, yerr=[below, above], fmt="o", color=f"C{k}", label=way)
    axes.set_xticks(range(len(thresholds)), [f"{threshold:g}" for threshold in thresholds])
    axes.set(xlabel="similarity from which it answers", ylabel="wrong answers, %", ylim=(0, 100))
    axes.legend(fontsize=8)
    show(figure, alt, caption)
