"""The figure of notebook 15."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from labkit.report.told.plots import new_figure, show


def rates(
    measured: Mapping[str, float],
    limits: Mapping[str, float],
    bare: Mapping[str, float],
    ours: Collection[str],
    alt: str,
    caption: str,
) -> None:
    """A bar a variant, slowest first, with marks at its limit and at its bare read, where known.

    measured, limits, bare: decode rates in tokens/s. ours: variants drawn blue; others are grey.
    """
    order = sorted(measured, key=lambda name: measured[name])
    # So wide that it is legible on a phone, whose screen it fits.
    figure, axes = new_figure(5.4, 0.9 + 0.34 * len(order))
    for row, name in enumerate(order):
        axes.barh(row, measured[name], height=0.62, color="C0" if name in ours else "C4")
        for marks, color in ((limits, "C1"), (bare, "C2")):
            if name in marks:
                axes.plot([marks[name]] * 2, [row - 0.4, row + 0.4], color=color, linewidth=2.4)
    # Numbers stand beside the names, where no mark covers them.
    axes.set_yticks(range(len(order)), [f"{name}   {measured[name]:,.0f}" for name in order])
    axes.set(xlabel="decode, tokens/s", xlim=(0, None))
    show(figure, alt, caption)
