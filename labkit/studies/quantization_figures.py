"""The figure of notebook 04."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from labkit.report.told.plots import new_figure, show


class Point(NamedTuple):
    """A variant: tokens/s, KL from the unquantized model in nats, bytes over the plain weights."""

    rate: float
    kl: float
    share: float


def quality_against_speed(points: Mapping[str, Point], plain_rate: float) -> None:
    """Every variant by its speed and its KL divergence; the area of a point is its bytes."""
    figure, axes = new_figure(7.4, 4.2)
    for k, (name, point) in enumerate(points.items()):
        at = (point.rate, max(point.kl, 1e-7))  # the axis is logarithmic
        axes.scatter(*at, s=point.share * 1200, color=f"C{k % 6}", alpha=0.75)
        axes.annotate(name, at, textcoords="offset points", xytext=(8, 4), fontsize=8)
    axes.axvline(plain_rate, linestyle=":", linewidth=1, color="C4")
    axes.set(yscale="log", xlabel="decode, tokens/s (dotted: plain)", ylabel="KL, nats")
    axes.margins(x=0.25, y=0.2)
    rates, kls = [p.rate for p in points.values()], [p.kl for p in points.values()]
    show(
        figure,
        f"KL divergence against speed of {len(points)} variants; the area of a point shows its "
        f"bytes. Rates lie between {min(rates):,.0f} and {max(rates):,.0f} tokens a second, KL "
        f"between {min(kls):.2g} and {max(kls):.2g}.",
        "Lower and further right is better. The area of a point shows the bytes of its weights.",
    )
