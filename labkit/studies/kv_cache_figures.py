"""The figures of notebook 02."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from labkit.report.told.plots import label_log_axis, new_figure, show
from labkit.timing.statistics import Ratio


def along_context(
    contexts: Sequence[int],
    measured: Mapping[str, Mapping[int, float]],
    least: Mapping[str, Mapping[int, float]],
    shares: Mapping[str, Mapping[int, Ratio]],
    alt: str,
) -> None:
    """Left: a token's time along the context, with its limit. Right: shares of the bare read.

    measured, least: seconds by variant and context; least without limits that were
    beaten. shares: with their intervals.
    """
    figure, (left, right) = new_figure(7.6, 3.5, columns=2)
    colors = {kind: f"C{k}" for k, kind in enumerate(measured)}
    for kind, times in measured.items():
        color, floor = colors[kind], least[kind]
        left.plot(list(times), [1e3 * t for t in times.values()], "o-", markersize=3,
                  color=color, label=kind)  # fmt: skip
        left.plot(list(floor), [1e3 * t for t in floor.values()], ":", linewidth=1, color=color)
    for kind, found in shares.items():
        right.plot(list(found), [100 * share.value for share in found.values()], "o-",
                   markersize=3, color=colors[kind])  # fmt: skip
        low = [100 * share.low for share in found.values()]
        right.vlines(list(found), low, [100 * share.high for share in found.values()],
                     color=colors[kind], linewidth=1)  # fmt: skip
    left.set(xscale="log", yscale="log", xlabel="context, tokens", ylabel="time a token, ms")
    label_log_axis(left.yaxis, [5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000])
    left.set_title("measured, and limit (dotted)")
    left.legend(fontsize=8)
    right.set(xscale="log", xlabel="context, tokens", ylabel="share of the bare read, %")
    right.set_ylim(0, None)
    for axes in (left, right):
        label_log_axis(axes.xaxis, contexts)
    show(figure, alt)


def bytes_along_context(
    contexts: Sequence[int], bytes_of: Mapping[str, Sequence[float]], alt: str
) -> None:
    """Bytes of each kind of cache along the context; bytes_of: at each context, by variant."""
    figure, axes = new_figure(7.2, 3.0)
    for k, (kind, occupied) in enumerate(bytes_of.items()):
        axes.plot(contexts, [n / 1e6 for n in occupied], color=f"C{k + 1}", label=kind)
    axes.set(xlabel="context, tokens", ylabel="KV cache, MB", ylim=(0, None))
    axes.legend(fontsize=8)
    show(figure, alt)
