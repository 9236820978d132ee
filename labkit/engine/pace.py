"""How many rows a pass may have, so that running requests keep a stated gap between tokens.

A long prompt that is read in one pass stalls everybody else. Read in chunks, it costs each of them
a little (Sarathi-Serve, 2403.02310). How large a chunk may be follows from what rows cost on this
machine with this model, which is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from labkit.engine.row_costs import RowCosts
from labkit.engine.scheduler import Budget, Running
from labkit.errors import ParameterError
from labkit.model.rows import Part

# Numbers of rows whose cost a pace should know: `row_costs(decoder, PACE_ROWS)`.
PACE_ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_KEEP = 0.9  # of what was learned, at each pass
_MOST_DRIFT = 2.0  # of one pass: one that waited for its cores says nothing


def budget_rows(costs: RowCosts, gap: float) -> int:
    """The most rows of a pass that takes at most `gap` seconds, at least 1.

    It is never above the largest pass that was measured.
    """
    allowed = gap / costs.seconds
    fitting = [rows for rows, cost in enumerate(costs.relative, 1) if cost <= allowed]
    return max(fitting, default=1)


class Load(NamedTuple):
    """What a pass computes: its rows, and the positions that all of them read together."""

    rows: int
    reads: int

    @staticmethod
    def of(parts: Sequence[Part]) -> Load:
        """Of a pass over these parts."""
        load = Load(0, 0)
        for part in parts:
            load = load.plus(len(part.tokens), part.start)
        return load

    def plus(self, count: int, at: int) -> Load:
        """With `count` more rows of one request, the first of them at position `at`."""
        return Load(self.rows + count, self.reads + count * at + count * (count + 1) // 2)


class Pace:
    """The budget of each pass, from the measured cost of rows and from what passes took.

    costs: of passes of up to some hundred rows (PACE_ROWS); no larger one is planned where somebody
    answers. stretch: a pass with rows of prompts takes at most so many times the pass without them.
    gap: seconds that it may take, instead of stretch. rows: the most where nobody answers.

    A pass takes T(1) r(k) for its k rows, and some time for each position that attention reads
    beyond the context at which r was measured. The latter is learned from the passes: of a prompt
    of thousands of tokens it becomes the larger part. Also learned is by how much passes with and
    without rows of prompts differ from what is expected of them: the machine may have changed since
    the costs were measured. Single passes scatter around what is aimed at.
    """

    def __init__(
        self, costs: RowCosts, stretch: float = 2.5, gap: float | None = None, rows: int = 512
    ) -> None:
        if not stretch > 1 or not (gap is None or gap > 0) or rows < 1:  # NaN is above nothing
            raise ParameterError(
                f"stretch {stretch}, gap {gap}, rows {rows}: allowed are a stretch above 1 and a "
                "gap above 0 seconds, and at least one row."
            )
        self.costs, self.stretch, self.gap, self.rows = costs, stretch, gap, rows
        self.seconds_a_read = 0.0
        self._products = self._squares = 0.0
        self._drift = {False: 1.0, True: 1.0}  # taken over expected, without and with prompts

    def seconds(self, load: Load) -> float:
        """What a pass is expected to take; beyond the measured rows, in proportion."""
        most = self.costs.most
        relative = self.costs.r(min(load.rows, most)) * max(1.0, load.rows / most)
        return self.costs.seconds * relative + self.seconds_a_read * self._beyond(load)

    def _beyond(self, load: Load) -> int:
        return load.reads - load.rows * self.costs.context

    def learn(self, load: Load, seconds: float, reads: bool = False) -> None:
        """A pass took so long; reads: it had rows of prompts. Old passes fade. Least squares give
        the cost of a read."""
        if load.rows > self.costs.most:
            return
        ratio = min(_MOST_DRIFT, max(1 / _MOST_DRIFT, seconds / self.seconds(load)))
        self._drift[reads] = _KEEP * self._drift[reads] + (1 - _KEEP) * ratio
        beyond = self._beyond(load)
        rest = seconds - self.costs.seconds * self.costs.r(load.rows)
        self._products = _KEEP * self._products + beyond * rest
        self._squares = _KEEP * self._squares + beyond * beyond
        if self._squares:
            self.seconds_a_read = max(0.0, self._products / self._squares)

    def budget(self, running: Sequence[Running]) -> Budget:
        """The budget of the next pass."""
        usual = load_of(running)
        at = next((one.length for one in running if one.unread > 1), 0)
        allowed = self.gap or self.stretch * self.seconds(usual) * self._drift[False]
        allowed /= self._drift[True]
        fits, beyond = 1, max(1, self.costs.most - usual.rows) + 1
        while beyond - fits > 1:
            middle = (fits + beyond) // 2
            if self.seconds(usual.plus(middle, at)) <= allowed:
                fits = middle
            else:
                beyond = middle
        return Budget(self.rows, usual.rows + fits)


def load_of(running: Sequence[Running]) -> Load:
    """The rows of the requests that answer."""
    answering = [one.length + 1 for one in running if one.unread == 1]
    return Load(len(answering), sum(answering))
