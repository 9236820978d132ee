"""Two sources in one draft: copies where text repeats itself, a learned head elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from labkit.engine.control import Acceptance
from labkit.engine.draft import NOTHING, Draft, Proposal
from labkit.engine.row_costs import RowCosts, best_length
from labkit.model.config import ModelConfig
from labkit.optimize.speculative.head.draft import LearnedHead
from labkit.optimize.speculative.predict import expected_in_chain
from labkit.optimize.speculative.suffix import SuffixIndex


class Chooser(Draft):
    """Drafts a copy where that promises more than the head's drafts gained lately, else the head's.

    It decides itself how many tokens to send, so use it with Fixed(costs.most - 1). A copy costs
    nothing to make. Each copy is compared with the output, even one that was not sent.
    """

    def __init__(
        self, costs: RowCosts, head: LearnedHead, index: SuffixIndex | None = None
    ) -> None:
        self.name = "suffix index or learned head"
        self.costs, self.head, self.index = costs, head, index or SuffixIndex()
        self.acceptance = Acceptance()

    @property
    def asked(self) -> tuple[int, int, int]:
        """The head's passes so far; see LearnedHead.asked."""
        return self.head.asked

    def check(self, config: ModelConfig) -> None:
        self.head.check(config)

    def begin(self, context: Sequence[int], most: int) -> None:
        self.head.begin(context, most)
        self.index.begin(context, most)
        self._offered: tuple[int, Proposal] = (0, NOTHING)

    def watch(self, streams: Tensor) -> None:
        """The target's streams, for the head."""
        self.head.watch(streams)

    def propose(self, context: Sequence[int], limit: int) -> Proposal:
        start, offered = self._offered
        self.acceptance.learn(offered, context[start:])
        copied = self.index.propose(context, limit)
        self._offered = len(context), copied
        if copied.tokens:
            rates = self.acceptance.rates(copied.evidence, len(copied.tokens))
            length = best_length(rates, self.costs)
            gain = expected_in_chain(rates[:length]) / self.costs.r(length + 1)
            if length and gain >= max(self.head.gain, 1.0):
                return copied.cut(length)
        return self.head.propose(context, limit)

    def end(self, context: Sequence[int]) -> None:
        self.index.end(context)
        self.head.end(context)
