"""The figure of notebook 03."""

from __future__ import annotations

from collections.abc import Mapping

from labkit.report.told.compared import Least
from labkit.report.told.plots import new_figure, show
from labkit.timing.statistics import Ratio


def alone_and_stacked(
    gains: Mapping[str, Ratio], stack: Mapping[str, float], least: Least | None
) -> None:
    """Left: the speedup of each rewrite alone. Right: a token's time as rewrites are stacked.

    gains: over the plain decoder. stack: seconds a token. least: the plain decoder's limit; None
    where a rung was faster than it.
    """
    figure, (left, right) = new_figure(7.6, 3.4, columns=2)
    for k, gain in enumerate(gains.values()):
        left.barh(k, 100 * (gain.value - 1), color=f"C{k}")
        left.hlines(k, 100 * (gain.low - 1), 100 * (gain.high - 1), color="C4")
    left.set_yticks(range(len(gains)), list(gains))
    left.axvline(0, linewidth=0.8, color="C4")
    left.set(xlabel="faster than the plain decoder, %", title="each alone, with its interval")
    right.barh(range(len(stack)), [1e3 * time for time in stack.values()], color="C0")
    title = "stacked"
    if least is not None:
        best, slowest = 1e3 * least.seconds, 1e3 * (least.slowest or least.seconds)
        right.axvline(best, linestyle=":", color="C1")
        right.axvspan(best, slowest, color="C1", alpha=0.15)
        title += " (dotted: limit, best to slowest rate)"
    right.set_yticks(range(len(stack)), list(stack))
    right.set(xlabel="time a token, ms", title=title)
    for axes in (left, right):
        axes.invert_yaxis()
    show(figure, _alt(gains, stack))


def _alt(gains: Mapping[str, Ratio], stack: Mapping[str, float]) -> str:
    """What the figure shows, in words."""
    first, least = next(iter(stack)), min(stack, key=lambda name: stack[name])
    each = ", ".join(f"{name} {gain}" for name, gain in gains.items())
    return (
        f"Left: each rewrite alone: {each}. Right: a token takes {1e3 * stack[first]:.3g} ms with "
        f"the {first}; the lowest mean is {1e3 * stack[least]:.3g} ms, with {least}."
    )
