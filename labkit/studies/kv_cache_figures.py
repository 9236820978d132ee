"""The figures of notebook 02."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from labkit.report.told.plots import label_log_axis, new_figure, show


def along_context(
    contexts: Sequence[int],
    measured: Mapping[str, Sequence[float]],
    least: Mapping[str, Sequence[float]],
    shares_of: Sequence[str],
    alt: str,
) -> None:
    """Left: a token's time along the context, with its limit. Right: the fraction of the limit.

    measured, least: seconds at each context, by variant. shares_of: variants shown on the right.
    """
    figure, (left, right) = new_figure(7.6, 3.5, columns=2)
    most = 1.0
    for k, kind in enumerate(measured):
        color, times, floor = f"C{k}", measured[kind], least[kind]
        left.plot(contexts, [1e3 * t for t in times], "o-", markersize=3, color=color, label=kind)
        left.plot(contexts, [1e3 * t for t in floor], ":", linewidth=1, color=color)
        if kind in shares_of:
            shares = [f / t for f, t in zip(floor, times, strict=True)]
            right.plot(contexts, shares, "o-", markersize=3, color=color)
            most = max(most, *shares)
    left.set(xscale="log", yscale="log", xlabel="context, tokens", ylabel="time a token, ms")
    label_log_axis(left.yaxis, [5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000])
    left.set_title("measured, and limit (dotted)")
    left.legend(fontsize=8)
    right.set(xscale="log", xlabel="context, tokens", ylabel="fraction of its limit")
    right.set_ylim(0, most)
    for axes in (left, right):
        label_log_axis(axes.xaxis, contexts)
    show(figure, alt)


def bytes_along_context(
    contexts: Sequence[int], bytes_of: Mapping[str, Sequence[float]], alt: str
) -> None:
    """Bytes of each kind of cache along the context; bytes_of: bytes at each context, by "
    "variant."""
    figure, axes = new_figure(7.2, 3.0)
    for k, (kind, occupied) in enumerate(bytes_of.items()):
        axes.plot(contexts, [n / 1e6 for n in occupied], color=f"C{k + 1}", label=kind)
    axes.set(xlabel="context, tokens", ylabel="KV cache, MB", ylim=(0, None))
    axes.legend(fontsize=8)
    show(figure, alt)
