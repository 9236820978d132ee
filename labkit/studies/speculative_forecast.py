"""The speedup to expect of drafts, told before any of the timed tasks runs.

Speculation does not change a greedy answer. So a replay over a known answer gives the passes that
drafts would need (`speculative_replay`), and their time follows from the cost of rows. A forecast
replays the answers of other tasks of the same kind, and takes the cost of rows measured earlier. It
knows neither the texts nor the moment that it is held against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from labkit.engine.accounting import Accounting
from labkit.engine.row_costs import RowCosts
from labkit.model.config import ModelConfig
from labkit.model.forward import offers
from labkit.optimize.speculative.head.cost import HeadCost
from labkit.optimize.speculative.predict import mixed_speedup
from labkit.studies.predictions import inside, near
from labkit.studies.speculative_prompts import Rounds, together
from labkit.studies.speculative_replay import replay
from labkit.studies.speculative_tasks import Case, Setting
from labkit.timing.statistics import Ratio, geometric_mean

EVERY = "all kinds"


@runtime_checkable
class CountsHead(Protocol):
    """A draft that counts what its learned head did."""

    @property
    def asked(self) -> tuple[int, int, int]:
        """Counts: first tokens of drafts, further tokens, and other tokens that the head read."""


class Foreseen(NamedTuple):
    """The replay of a setting on a case.

    account: passes of the target. asked: the counts of a learned head, as in CountsHead.
    """

    account: Accounting
    asked: tuple[int, int, int] = (0, 0, 0)

    def speedup(
        self, costs: RowCosts, head: HeadCost | None = None, draft_cost: float = 0.0
    ) -> float:
        """Speedup over no drafts. draft_cost: of a token of another draft, in passes of one row."""
        asking = head.of(self.asked) if head else 0.0
        return mixed_speedup(self.account, costs, draft_cost, asking)


def foreseen(config: ModelConfig, case: Case, setting: Setting) -> Foreseen:
    """Replay a setting on a case; this runs the draft, and not the target."""
    draft = setting.draft()
    account = replay(
        config, draft, case.prompt, case.answer, setting.control(), streams=case.streams
    )
    counts = offers(draft, CountsHead)
    return Foreseen(account) if counts is None else Foreseen(account, counts.asked)


def all_foreseen(
    config: ModelConfig, cases: Sequence[Case], settings: Mapping[str, Setting]
) -> dict[str, list[Foreseen]]:
    """By setting: its replay on each case."""
    return {
        name: [foreseen(config, case, setting) for case in cases]
        for name, setting in settings.items()
    }


@dataclass(frozen=True)
class Held:
    """A forecast held against what was then measured.

    replayed: the speedup computed in the same way from the measured answers themselves.
    """

    kind: str
    setting: str
    forecast: float
    measured: Ratio
    replayed: float

    @property
    def inside(self) -> bool:
        """Whether the forecast lies in the measured interval."""
        return inside(self.forecast, self.measured)

    @property
    def near(self) -> bool:
        """Whether it lies within 15 % of the measured value."""
        return near(self.forecast, self.measured.value)

    @property
    def holds(self) -> bool:
        """Whether it is inside the measured interval, or near the measured value."""
        return self.inside or self.near

    @property
    def consistent(self) -> bool:
        """Whether the replay of the measured answers gives the measured value, within 15 %."""
        return near(self.replayed, self.measured.value)


def hold(
    timed: Mapping[str, Rounds],
    forecasts: Mapping[str, Mapping[str, Sequence[float]]],
    replays: Mapping[str, Mapping[str, Sequence[float]]],
) -> list[Held]:
    """Every forecast beside what was measured: of each kind of task, then of all kinds together.

    forecasts, replays: by kind and setting, the speedup to expect of each calibration case and of
    each timed case. A kind without calibration cases has no forecast and is left out.
    """
    kinds = [kind for kind in forecasts if kind in timed]
    found = [
        Held(kind, name, geometric_mean(values), timed[kind].speedup(name),
             geometric_mean(replays[kind][name]))
        for kind in kinds
        for name, values in forecasts[kind].items()
    ]  # fmt: skip
    for name in replays[kinds[0]] if kinds else ():
        told = [
            geometric_mean(forecasts[kind][name]) for kind in kinds for _ in replays[kind][name]
        ]
        again = [value for kind in kinds for value in replays[kind][name]]
        measured = together([timed[kind] for kind in kinds], name)
        found.append(Held(EVERY, name, geometric_mean(told), measured, geometric_mean(again)))
    return found
