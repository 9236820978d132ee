"""The figures of notebook 00."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from labkit.report.told.plots import label_log_axis, new_figure, show


class Point(NamedTuple):
    """One variant and phase below the roofline; rates in FLOP/s, intensity in FLOPs a byte.

    ceiling: None where the variant was faster than its limit.
    """

    variant: str
    phase: str
    intensity: float
    achieved: float
    ceiling: float | None


def machine(
    bandwidth: Mapping[int, tuple[float, float]],
    weight_bytes: float,
    rates: Mapping[str, tuple[float, float]],
    threads: int,
    caption: str,
) -> None:
    """Left: read bandwidth by working set. Right: the rate of a matrix product by dtype.

    bandwidth: (best, slowest) bytes/s by working set in bytes. rates: the same in FLOP/s by dtype.
    """
    figure, (left, right) = new_figure(7.6, 3.2, columns=2)
    sizes = sorted(bandwidth)
    mebibytes = [size / 2**20 for size in sizes]
    best, slowest = ([bandwidth[size][k] / 1e9 for size in sizes] for k in (0, 1))
    left.vlines(mebibytes, slowest, best, alpha=0.5)
    left.plot(mebibytes, best, "o-", markersize=3)
    left.set(xscale="log", xlabel="working set, MiB", ylabel="read bandwidth, GB/s", ylim=(0, None))
    label_log_axis(left.xaxis, [2**k for k in range(-4, 13, 2)])
    left.axvline(weight_bytes / 2**20, linestyle=":", color="C1")
    left.set_title("memory (dotted: this model's weights)")
    tops, lows = ([pair[k] / 1e9 for pair in rates.values()] for k in (0, 1))
    right.bar(list(rates), tops, width=0.5, color="C2")
    right.vlines(range(len(tops)), lows, tops, color="C4")
    right.set(ylabel="dense matrix product, GFLOP/s", title=f"arithmetic, {threads} threads")
    products = ", ".join(
        f"{name} {top:,.0f} GFLOP/s" for name, top in zip(rates, tops, strict=True)
    )
    show(
        figure,
        f"Left: the read bandwidth is {max(best):.0f} GB/s at best, and {best[-1]:.0f} GB/s for "
        f"the largest working set. Right, matrix products: {products}.",
        f"{caption}. Each point and bar: the best of several spells. Each line reaches down to the "
        "slowest. A spell reads or multiplies without a pause for about as long as a turn of a "
        "comparison; sets that caches hold get a tenth of that. Before a spell the set is read "
        "untimed, so that a shared cache holds of it what it can.",
    )


def predicted(
    batches: Sequence[int],
    by_batch: Mapping[int, Sequence[float]],
    contexts: Sequence[int],
    by_context: Mapping[int, Sequence[float]],
) -> None:
    """Left: the decode limit of all streams against batch. Right: of each stream against context.

    by_batch: tokens/s at each batch, by context. by_context: tokens/s at each context, by batch.
    """
    figure, (left, right) = new_figure(7.6, 3.2, columns=2)
    for context, rates in by_batch.items():
        left.plot(batches, rates, "o-", markersize=3, label=f"{context:,}")
    left.set(xscale="log", yscale="log", xlabel="batch", ylabel="all streams, tok/s")
    left.set_title("limit against batch")
    label_log_axis(left.xaxis, batches)
    label_log_axis(left.yaxis, _round_numbers([r for rates in by_batch.values() for r in rates]))
    left.legend(title="context")
    for batch, rates in by_context.items():
        right.plot(contexts, rates, label=f"{batch}")
    right.set(xlabel="context, tokens", ylabel="each stream, tok/s", ylim=(0, None))
    right.set_title("limit against context")
    right.legend(title="batch")
    context, batch = next(iter(by_batch)), next(iter(by_context))
    together, each = by_batch[context], by_context[batch]
    show(
        figure,
        f"Left: at a context of {context:,} the decode limit of all streams together goes from "
        f"{together[0]:,.0f} tok/s at batch {batches[0]} to {together[-1]:,.0f} at batch "
        f"{batches[-1]}. Right: at batch {batch} the limit of a stream goes from {each[0]:,.0f} "
        f"tok/s at a context of {contexts[0]:,} to {each[-1]:,.0f} at {contexts[-1]:,}.",
    )


def roofline(
    bandwidth: float,
    rate: float,
    points: Sequence[Point],
    variants: Sequence[str],
    bare: float | None,
) -> None:
    """Measured rates of arithmetic below the machine's roofline.

    bandwidth: the run's best, bytes/s. rate: FLOP/s. variants: in the order of their colours. bare:
    bytes/s of the bare read in the rounds; None where there was none. Where a variant was faster
    than its limit, the roofline is no limit, and is not drawn.
    """
    figure, axes = new_figure(7.2, 3.8)
    intensity = [2**k / 8 for k in range(0, 16)]
    if all(point.ceiling for point in points):
        roof = [min(i * bandwidth, rate) / 1e9 for i in intensity]
        axes.plot(intensity, roof, color="C4", label="roofline")
    if bare:
        read = [min(i * bare, rate) / 1e9 for i in intensity]
        axes.plot(intensity, read, ":", color="C4", label="bare read in the rounds")
    for point in points:
        mark, color = "o" if point.phase == "decode" else "s", f"C{variants.index(point.variant)}"
        label = f"{point.variant}, {point.phase}"
        axes.plot(point.intensity, point.achieved / 1e9, mark, color=color, label=label)
        _open_mark(axes, mark, point)
    axes.set(xscale="log", yscale="log", ylabel="GFLOP/s")
    axes.set_xlabel("arithmetic intensity, FLOPs a byte read")
    label_log_axis(axes.xaxis, [0.125, 0.5, 2, 8, 32, 128, 512, 2048])
    label_log_axis(
        axes.yaxis, _round_numbers([r / 1e9 for p in points for r in (p.achieved, p.ceiling) if r])
    )
    axes.legend(fontsize=8)
    show(
        figure,
        "The roofline of this machine, and the measured prefill and decode rates of both variants: "
        + ", ".join(
            f"{p.variant}, {p.phase}: {p.achieved / 1e9:.3g}{_of(p.ceiling)} GFLOP/s"
            for p in points
        )
        + ".",
        "Open marks: the limit, where it was not beaten. Filled marks: what each variant reached.",
    )


def _of(ceiling: float | None) -> str:
    return "" if ceiling is None else f" of {ceiling / 1e9:.3g}"


def _open_mark(axes: Any, mark: str, point: Point) -> None:
    if point.ceiling is not None:
        axes.plot(point.intensity, point.ceiling / 1e9, mark, color="C4", fillstyle="none")


def _round_numbers(values: Sequence[float]) -> list[float]:
    """Round numbers around positive values, where a log axis is marked; the wider the fewer."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    steps = (1, 2, 5) if high - low <= 2 else (1, 3) if high - low <= 4 else (1,)
    return [step * 10.0**decade for decade in range(low, high + 1) for step in steps]
