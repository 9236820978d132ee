"""What notebook 02 predicts, from steps that are timed earlier, on another text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from labkit.base.units import seconds
from labkit.limits.cost import Cost
from labkit.report.told.compared import Least
from labkit.report.told.plots import say, table
from labkit.studies.kv_cache_variants import GROWING, NO_CACHE, STATIC, Makers, steps_at
from labkit.studies.lab import Lab
from labkit.studies.predictions import Prediction, no_change, not_below, of_moment, score
from labkit.timing.compare import Comparison
from labkit.timing.statistics import interval

_TEXT = 3000  # the number of its prompt; the comparisons have others
_STEPS = 8
_SHORTER = f"{NO_CACHE}, shorter context"


@dataclass(frozen=True)
class Earlier:
    """Steps of every variant after one context of another text; without a cache, after two.

    shorter, context: the contexts; shorter is the first ones of the same text. cost: of one token
    after a context, by variant.
    """

    lab: Lab
    makers: Makers
    shorter: int
    context: int
    rounds: int
    cost: Callable[[str, int], Cost]

    @cached_property
    def comparison(self) -> Comparison:
        """All variants, interleaved; held against nothing, for only their times are used."""
        ids = self.lab.prompt(_TEXT, self.context + _STEPS)
        decoder, first = self.lab.decoder, ids[: self.shorter + 2]
        runs = steps_at(decoder, self.makers, ids, self.context)
        runs[_SHORTER] = steps_at(decoder, {}, first, self.shorter)[NO_CACHE]
        found = self.lab.compare(runs, STATIC, self.rounds, {}, label="earlier steps")
        self.lab.keep_samples("earlier", found.to_dict())
        return found

    def limit(self, kind: str, context: int) -> Least | None:
        """The limit of a token; None where the steps here were already faster than theirs."""
        here = self.lab.least(self.cost(kind, self.context))
        held = here.standing(self.comparison.mean(kind))
        return held and self.lab.least(self.cost(kind, context))

    def expected(self, kind: str, context: int) -> float:
        """Predicted seconds of one token after `context`, never below its limit.

        With a cache: as long as here, and the bytes that are added at the run's best bandwidth; the
        growing cache also copies them, which reads and writes them once more. Without a cache: from
        the shorter context on, time grows in proportion to FLOPs, if it grows at all.
        """
        return not_below(self._expected(kind, context), self.limit(kind, context))

    def _expected(self, kind: str, context: int) -> float:
        here, there = self.cost(kind, self.context), self.cost(kind, context)
        taken = self.comparison.mean(kind)
        if kind != NO_CACHE:
            times = 3 if kind == GROWING else 1
            bandwidth = self.lab.hardware.bandwidth(there.read_bytes)
            return taken + times * (there.read_bytes - here.read_bytes) / bandwidth
        apart = here.flops - self.cost(kind, self.shorter).flops
        growth = max(0.0, taken - self.comparison.mean(_SHORTER)) / apart
        row = self.comparison.mean(STATIC)  # no pass of several rows is faster than that of one
        return max(row, taken + growth * (there.flops - here.flops))

    @property
    def reach(self) -> int:
        """The longest context for which a time without a cache is predicted."""
        return 2 * self.context

    def show(self, *wanted: Mapping[str, int]) -> None:
        """Show the predicted times; wanted: contexts by variant."""
        rows: dict[int, dict[str, object]] = {}
        for kind, context in (pair for some in wanted for pair in some.items()):
            row = rows.setdefault(context, {"context": context})
            row[kind] = seconds(self.expected(kind, context))
        table([rows[context] for context in sorted(rows)], caption="The predicted time of a token")

    def time(self, kind: str, context: int, found: Comparison) -> Prediction:
        """The predicted time of a token, held against a later comparison after that context."""
        measured = interval(found.values(kind))
        return Prediction(_place(kind, context), self.expected(kind, context), measured)

    def speedup(self, kind: str, context: int, found: Comparison) -> Prediction:
        """The predicted speedup over the baseline of a later comparison."""
        expected = self.expected(found.baseline, context) / self.expected(kind, context)
        return Prediction(_place(kind, context), expected, found.speedup(kind))

    def hold(self, later: Sequence[tuple[str, int, Comparison]]) -> None:
        """Show how the predictions did; later: each variant, a context, and the comparison there.

        The first comparison also tells how much the machine itself changed: by the static cache.
        """
        times, gains, rows = [], [], []
        for kind, context, found in later:
            times.append(self.time(kind, context, found))
            row = {"variant": kind, "context": context} | times[-1].time_cells()
            if kind != found.baseline:
                gains.append(self.speedup(kind, context, found))
                row |= gains[-1].speedup_cells() | {"speedup over": found.baseline}
            rows.append(row)
        table(rows, caption="The predictions, held against what was measured after them")
        say(f"{score('speedups', gains)} {no_change([one.measured for one in gains])}")
        _, context, found = later[0]
        expected = self.expected(STATIC, context)
        moment = interval([taken / expected for taken in found.values(STATIC)])
        say(f"{score('times', times)} {of_moment(STATIC, moment)}")


def _place(kind: str, context: int) -> str:
    return f"{kind} after {context:,}"
