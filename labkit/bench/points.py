"""Engines at several numbers of streams, measured in the same rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from labkit.bench.answers import Answers
from labkit.bench.asked import Asked
from labkit.bench.client import Loaded
from labkit.timing.compare import Comparison, again
from labkit.timing.statistics import (
    Ratio,
    direction,
    holm,
    interval,
    narrow_enough,
    paired_ratio,
    trusted,
)

OUTPUT, DECODE = "seconds_a_token", "answering"  # metrics of a Wave: with the prompts, and without


def point(engine: str, streams: int) -> str:
    """The name of an engine at a number of streams."""
    return f"{engine} at {streams}"


@dataclass(frozen=True)
class Many:
    """Engines at numbers of streams, in the same rounds.

    comparison: of all `point`s, and of the first engine's second turn at each number. engines:
    those that started, the baseline first. failed: by engine or point.
    """

    asked: Asked
    engines: tuple[str, ...]
    comparison: Comparison
    loaded: Mapping[str, Loaded] = field(default_factory=dict)
    answers: Mapping[str, Answers] = field(default_factory=dict)

    @property
    def failed(self) -> dict[str, str]:
        return self.comparison.failed

    def at(self, streams: int) -> Comparison | None:
        """The engines that ran at one number of streams; None where the first one did not."""
        first = self.engines[0]
        names = {point(engine, streams): engine for engine in self.engines}
        names[again(point(first, streams))] = again(first)
        whole = self.comparison.traces
        traces = {names[name]: turns for name, turns in whole.items() if name in names}
        if not {first, again(first)} <= traces.keys():
            return None
        return Comparison(first, traces, {})

    def times(self, engine: str, streams: int, metric: str = OUTPUT) -> list[float] | None:
        """Seconds a token of all streams together, round by round; None where it did not run or the
        metric is not defined."""
        found = self.at(streams)
        if found is None or engine not in found.traces:
            return None
        try:
            return found.values(engine, metric)
        except ValueError:
            return None

    def rate(self, engine: str, streams: int, metric: str = OUTPUT) -> Ratio | None:
        """Tokens a second of all streams together, with the interval over rounds."""
        found = self.times(engine, streams, metric)
        return None if found is None else interval([1 / one for one in found])

    def over(
        self, one: tuple[str, int], other: tuple[str, int], metric: str = OUTPUT
    ) -> Ratio | None:
        """How many times the tokens a second of another (engine, streams) it makes, paired."""
        theirs, ours = self.times(*other, metric), self.times(*one, metric)
        return None if theirs is None or ours is None else paired_ratio(theirs, ours)

    def best(self, engine: str, metric: str = OUTPUT) -> int | None:
        """The number of streams at which it makes the most tokens a second."""
        rates = {n: self.rate(engine, n, metric) for n in self.asked.streams}
        known = {n: rate.value for n, rate in rates.items() if rate is not None}
        return max(known, key=lambda n: known[n]) if known else None

    def control(self, streams: int, metric: str = OUTPUT) -> Ratio | None:
        """The A/A control at a number of streams: the first engine against itself."""
        if (found := self.at(streams)) is None or not self.times(self.engines[0], streams, metric):
            return None
        return found.speedup(found.control, metric)

    def trusted(self, streams: int, metric: str = OUTPUT) -> bool:
        """Whether the control at this number of streams shows no difference."""
        found = self.control(streams, metric)
        return found is not None and trusted(found)

    def verdicts(self, metric: str = OUTPUT) -> dict[tuple[str, int], str]:
        """Of each engine against the first at the same number of streams: faster, slower or
        inconclusive, corrected for all of them together."""
        ratios: dict[tuple[str, int], Ratio] = {}
        controls: dict[int, Ratio] = {}
        first, *others = self.engines
        for streams in self.asked.streams:
            if (control := self.control(streams, metric)) is None:
                continue
            controls[streams] = control
            for engine in others:
                if ratio := self.over((engine, streams), (first, streams), metric):
                    ratios[engine, streams] = ratio
        held = holm({key: ratio.p_value for key, ratio in ratios.items()})
        return {
            key: _verdict(ratio, controls[key[1]], key in held) for key, ratio in ratios.items()
        }


def _verdict(ratio: Ratio, control: Ratio, held: bool) -> str:
    sure = held and trusted(control) and narrow_enough(ratio.value, (control.low, control.high))
    return direction(ratio.value) if sure else "inconclusive"
