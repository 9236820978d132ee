"""What speculation should gain on a batch of tasks: foreseen before it runs.

What drafts would do is certain before the run, for speculation changes no answer. What it is worth
follows from what rows cost, and on a shared machine that drifts as bandwidth does: T(4) / T(1) was
1.3 and 1.6 within a minute. So it is measured around every round too, and a round's prediction
takes the costs of its own moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from labkit.model.config import ModelConfig
from labkit.model.load import LoadedModel
from labkit.optimize.speculative.accounting import Accounting
from labkit.optimize.speculative.costs import DEFAULT_KS, RowCosts
from labkit.optimize.speculative.predict import mixed_speedup
from labkit.optimize.speculative.replay import replay
from labkit.optimize.speculative.study import Case, KeptHead, Setting, costs_of, of_round


class Moment(NamedTuple):
    """What rows of the target, and tokens of a draft head, cost at one time."""

    costs: RowCosts
    head: KeptHead | None = None


class Foreseen(NamedTuple):
    """What a setting would do on a case: passes of the target, and what a head would be asked.

    asked: as LearnedHead tells it.
    """

    account: Accounting
    asked: tuple[int, int, int] = (0, 0, 0)

    def speedup(self, moment: Moment, draft_cost: float = 0.0) -> float:
        """Over plain decoding; draft_cost: of a token drafted otherwise, in plain passes."""
        asking = moment.head.cost.of(self.asked) if moment.head else 0.0
        return mixed_speedup(self.account, moment.costs, draft_cost, asking)


def foreseen(config: ModelConfig, case: Case, setting: Setting) -> Foreseen:
    """What a setting would do on a case; the target rests."""
    draft = setting.draft()
    account = replay(
        config, draft, case.prompt, case.answer, setting.control(), streams=case.streams
    )
    return Foreseen(account, getattr(draft, "asked", (0, 0, 0)))


def moment(
    loaded: LoadedModel, target: Any, head: KeptHead | None = None,
    ks: Sequence[int] = DEFAULT_KS, context: int = 512, rounds: int = 5,
) -> Moment:  # fmt: skip
    """What rows and the head's tokens cost now."""
    costs = costs_of(loaded, target, ks, context, rounds)
    return Moment(costs, head and head.measured(target, costs))


def expected(of_cases: Sequence[Foreseen], moments: Sequence[Moment]) -> float:
    """The median speedup of a comparison whose round n asks case n, as variants() does.

    moments: before the first round, between any two, and after the last.
    """
    rounds = [
        np.mean([of_round(of_cases, number).speedup(at) for at in moments[number - 1 : number + 1]])
        for number in range(1, len(moments))
    ]
    return float(np.median(rounds))
