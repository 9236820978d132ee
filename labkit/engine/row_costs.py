"""What passes of several rows cost, and the number of drafted tokens that is worth sending."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from labkit.errors import ParameterError
from labkit.timing.statistics import Ratio


@dataclass(frozen=True)
class RowCosts:
    """T(1) in seconds and r(1), r(2), ... up to the most rows of a pass.

    context: tokens before the rows. measured: r(k) with its interval over rounds, for each number
    of rows that was timed; empty where the costs were computed.
    """

    seconds: float
    relative: tuple[float, ...]
    context: int = 0
    measured: Mapping[int, Ratio] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.relative or not all(one > 0 for one in (self.seconds, *self.relative)):
            raise ParameterError(
                f"costs of rows must be positive: {self.seconds} s, times {self.relative}."
            )

    @property
    def most(self) -> int:
        """Rows of the largest pass that was measured."""
        return len(self.relative)

    def r(self, rows: int) -> float:
        """Time of a pass of `rows`, in passes of one row."""
        return self.relative[rows - 1]


def filled(
    seconds: float,
    found: Mapping[int, float],
    context: int = 0,
    measured: Mapping[int, Ratio] | None = None,
) -> RowCosts:
    """Costs of every number of rows, interpolated between those in `found`, which has 1."""
    ks = sorted(found)
    between = np.interp(range(1, ks[-1] + 1), ks, [found[k] for k in ks])
    return RowCosts(seconds, tuple(float(value) for value in between), context, measured or {})


def free_rows(most: int = 16) -> RowCosts:
    """The papers' assumption: extra rows cost nothing."""
    return RowCosts(1.0, (1.0,) * most)


def best_length(acceptance: Sequence[float], costs: RowCosts, draft_cost: float = 0.0) -> int:
    """The draft length with the highest expected speedup; 0 where none is above 1.

    acceptance: of each position of a draft. It runs before every pass: plain floats are fastest.
    """
    best, length = 1.0, 0
    tokens = survives = 1.0
    for count, chance in enumerate(acceptance[: costs.most - 1], 1):
        survives *= chance
        tokens += survives
        gain = tokens / (costs.relative[count] + count * draft_cost)
        if gain > best:
            best, length = gain, count
    return length
