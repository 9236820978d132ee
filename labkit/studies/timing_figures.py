"""The figures of notebook 01."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from labkit.base.units import seconds
from labkit.report.told.plots import new_figure, show
from labkit.timing.statistics import Ratio
from labkit.timing.trace import Trace


def first_calls(durations: Sequence[float], cut: int, alt: str) -> None:
    """The first calls of a model, in seconds; `cut` of them are warm-up."""
    figure, axes = new_figure(7.2, 2.8)
    axes.plot(range(1, len(durations) + 1), [t * 1e3 for t in durations], "o-", markersize=3)
    if 0 < cut < len(durations):
        axes.axvline(cut + 0.5, linestyle=":", color="C1", label=f"warm from call {cut + 1} on")
        axes.legend()
    axes.set(xlabel="call of a freshly loaded model", ylabel="time of a pass, ms", ylim=(0, None))
    show(figure, alt)


def repetitions(durations: Sequence[float], alt: str) -> None:
    """Left: the same work again and again, in seconds. Right: how often each duration came."""
    figure, (left, right) = new_figure(7.6, 2.9, columns=2)
    left.plot([t * 1e3 for t in durations], linewidth=0.9)
    left.set(xlabel="repetition", ylabel="time of the same pass, ms", ylim=(0, None))
    right.hist([t * 1e3 for t in durations], bins=30, color="C0")
    right.set(xlabel="ms", ylabel="how often")
    show(figure, alt)


def one_trace(trace: Trace) -> None:
    """When each token of an answer arrived, in seconds since the request was due."""
    figure, axes = new_figure(7.2, 1.7)
    axes.eventplot([[t - trace.due for t in trace.times]], colors=["C0"], linewidths=2)
    axes.axvspan(0, trace.ttft, alpha=0.15, color="C1")
    axes.set(xlabel="seconds since the request was due", yticks=[], xlim=(0, None))
    axes.set_title("one trace: the prompt is read (shaded), then tokens arrive")
    show(
        figure,
        f"The first token comes after {seconds(trace.ttft)}, then one about every "
        f"{seconds(trace.tpot or 0)}.",
    )


def false_claims(blocks: NDArray[np.float64], interleaved: NDArray[np.float64], alt: str) -> None:
    """Speedups found between two equal variants, by the two ways to take samples."""
    figure, axes = new_figure(7.2, 2.6)
    both = np.concatenate((blocks, interleaved))
    edges = np.linspace(min(both.min(), 0.99), max(both.max(), 1.01), 40)
    axes.hist(blocks, edges, alpha=0.6, label="ten of A, then ten of B", density=True)
    axes.hist(interleaved, edges, alpha=0.6, label="A and B interleaved", density=True)
    axes.axvline(1, linestyle=":", color="C4")
    axes.set(xlabel="speedup found where nothing changed", yticks=[])
    axes.legend()
    show(figure, alt)


def paired(ratios: Mapping[str, Ratio]) -> None:
    """The paired speedup of each round, by variant; its mean as a line, its interval as a band."""
    figure, axes = new_figure(7.2, 2.8)
    for k, (name, found) in enumerate(ratios.items()):
        color = f"C{k + 1}"
        axes.plot(range(1, len(found.rounds) + 1), found.rounds, "o", label=name, color=color)
        axes.axhline(found.value, linewidth=1, color=color)
        axes.axhspan(found.low, found.high, alpha=0.12, color=color)
    axes.axhline(1, linestyle=":", color="C4")
    axes.set(xlabel="round", ylabel="paired speedup")
    axes.legend(fontsize=8)
    show(
        figure,
        "The paired speedup of each round: "
        + "; ".join(f"{name}, {found}" for name, found in ratios.items())
        + ".",
        "Lines: the geometric means. Bands: their 95 % intervals.",
    )
