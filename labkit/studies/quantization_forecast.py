"""Forecasts of notebook 04: told from earlier rounds on other texts, held against later rounds.

A forecast is the share of its bare read that a variant will reach. Shares are ratios within a
round, so that a machine that is faster in one hour than in another changes them little.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from labkit.studies.lab import told_share
from labkit.studies.predictions import counted, inside, near
from labkit.studies.quantization_sentences import OWN_SHARE, PLAIN_REST
from labkit.timing.compare import Comparison
from labkit.timing.statistics import Ratio


class Forecast(NamedTuple):
    """The share of its bare read that a variant will reach, and what that was derived from."""

    variant: str
    share: float
    source: str


class Held(NamedTuple):
    """A forecast against what was measured after it was told."""

    forecast: Forecast
    measured: Ratio

    @property
    def inside(self) -> bool:
        """Whether it lies inside the measured interval."""
        return inside(self.forecast.share, self.measured)

    @property
    def off(self) -> float:
        """How far it lies from the measured value: 0.1 is 10 % above it."""
        return self.forecast.share / self.measured.value - 1

    @property
    def holds(self) -> bool:
        """Whether it is inside the measured interval or near its middle."""
        return self.inside or near(self.forecast.share, self.measured.value)

    def row(self) -> dict[str, object]:
        """A row of the table of forecasts."""
        where = "inside" if self.inside else f"{self.off:+.0%} off"
        return {
            "variant": self.forecast.variant,
            "forecast from": self.forecast.source,
            "forecast": f"{self.forecast.share:.0%}",
            "measured": told_share(self.measured),
            "the forecast lies": where,
            "held": "yes" if self.holds else "no",
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the traces folder of a run."""
        ratio = self.measured
        measured = {"value": ratio.value, "low": ratio.low, "high": ratio.high}
        return self.forecast._asdict() | {"measured": measured, "holds": self.holds}


def forecasts(earlier: Comparison, products_only: Collection[str]) -> list[Forecast]:
    """What each variant will reach, from a comparison on other texts that each one ran in.

    products_only: the variants that replace products and nothing else. These are expected to take
    their bare read and what the baseline took beyond its own, because the other operations are the
    same. Any other variant is expected to reach its own earlier share.
    """
    rest = _beyond(earlier, earlier.baseline)
    found = []
    for name in earlier.variants:
        share = earlier.share(name)
        if share is None:
            continue
        if name in products_only and rest is not None:
            alone = earlier.mean(name) * share.value
            found.append(Forecast(name, alone / (alone + rest), PLAIN_REST))
        else:
            found.append(Forecast(name, share.value, OWN_SHARE))
    return found


def _beyond(comparison: Comparison, name: str) -> float | None:
    """Seconds of a token beyond the bare read; None where nothing is measurably beyond it."""
    share = comparison.share(name)
    if share is None or share.high >= 1:
        return None
    return comparison.mean(name) * (1 - share.value)


def held(told: Sequence[Forecast], later: Comparison) -> list[Held]:
    """Each forecast with what the later comparison measured, where it measured it."""
    found = []
    for forecast in told:
        measured = later.share(forecast.variant) if forecast.variant in later.traces else None
        if measured is not None:
            found.append(Held(forecast, measured))
    return found


def sentence(every: Sequence[Held], plain: float | None = None) -> str:
    """How many forecasts held, and which did not.

    plain: the share that the plain decoder was forecast to reach; None where it has none.
    """
    if not every:
        return "No variant was held against a bare read, so there was no forecast."
    told = f"Of the forecasts, {counted([(one.forecast.share, one.measured) for one in every])}."
    for one in every:
        if not one.holds:
            told += (
                f" That of **{one.forecast.variant}** did not hold: {one.forecast.share:.0%} was "
                f"the forecast, and {told_share(one.measured)} was measured."
            )
    if plain is None:
        return told
    same = counted([(plain, one.measured) for one in every])
    return (
        f"{told} For comparison, the forecast that every variant reaches the {plain:.0%} of the "
        f"plain decoder: {same}."
    )
