"""The speedup to expect of drafts on a set of tasks, computed before the tasks are timed.

Speculation does not change a greedy answer. So a replay over a known answer gives the passes that
drafts would need (`speculative_replay`). Their time follows from the cost of rows. On a shared
machine this cost drifts as the bandwidth does: T(4) / T(1) was 1.3 and 1.6 within a minute. It is
therefore measured around every round too, and the prediction for a round takes the costs measured
before and after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from labkit.engine.accounting import Accounting
from labkit.engine.row_costs import RowCosts
from labkit.model.config import ModelConfig
from labkit.model.forward import Forward, offers
from labkit.model.load import LoadedModel
from labkit.optimize.speculative.costs import DEFAULT_KS
from labkit.optimize.speculative.predict import mixed_speedup
from labkit.studies.speculative_replay import replay
from labkit.studies.speculative_target import KeptHead, costs_of
from labkit.studies.speculative_tasks import Case, Setting, of_round


@runtime_checkable
class CountsHead(Protocol):
    """A draft that counts what its learned head did."""

    @property
    def asked(self) -> tuple[int, int, int]:
        """Counts: first tokens of drafts, further tokens, and other tokens that the head read."""


class Moment(NamedTuple):
    """The cost of the target's rows and of a learned head's tokens at one time."""

    costs: RowCosts
    head: KeptHead | None = None


class Foreseen(NamedTuple):
    """The replay of a setting on a case.

    account: passes of the target. asked: the counts of a learned head, as in CountsHead.
    """

    account: Accounting
    asked: tuple[int, int, int] = (0, 0, 0)

    def speedup(self, moment: Moment, draft_cost: float = 0.0) -> float:
        """Speedup over plain decoding. draft_cost: of a token of another draft, in plain passes."""
        asking = moment.head.cost.of(self.asked) if moment.head else 0.0
        return mixed_speedup(self.account, moment.costs, draft_cost, asking)


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


def moment(
    loaded: LoadedModel, target: Forward, head: KeptHead | None = None,
    ks: Sequence[int] = DEFAULT_KS, context: int = 512, rounds: int = 5,
) -> Moment:  # fmt: skip
    """Measure the cost of rows and of the head's tokens now."""
    costs = costs_of(loaded, target, ks, context, rounds)
    return Moment(costs, head and head.measured(target, costs))


def expected(of_cases: Sequence[Foreseen], moments: Sequence[Moment]) -> float:
    """The median speedup to expect in a comparison over the variants of `speculative_tasks`.

    of_cases: the replay of a setting on each case. moments: before the first round, between any
    two, and after the last; a round's speedup is the mean over the two around it.
    """
    rounds = [
        np.mean([of_round(of_cases, number).speedup(at) for at in moments[number - 1 : number + 1]])
        for number in range(1, len(moments))
    ]
    return float(np.median(rounds))
