"""How many tokens to draft, from what was accepted lately and what rows cost here."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Protocol

from labkit.engine.draft import Proposal
from labkit.engine.row_costs import RowCosts, best_length
from labkit.errors import ParameterError

_LONGEST_WAIT = 64  # passes between two probes of a draft that does not pay
# How often a copy's next token was right after 1, 2, 3, 4, 5-7, 8-15, 16-31, 32-63, more matches:
# the shipped model's greedy answers to the tasks for tuning, 9,273 tokens. The first number is for
# a source that gives no evidence: nothing is known of it.
_USUAL = array("d", (0.5, 0.3, 0.55, 0.7, 0.8, 0.86, 0.91, 0.95, 0.98, 0.99))
_FULL = 64  # matches that fill the last bucket
_BUCKETS = bytes((*range(5), *[5] * 3, *[6] * 8, *[7] * 16, *[8] * 32, 9))
_PATIENCE = 4  # drafts in a row, wrong from their first token, after which none is verified


class Control(Protocol):
    """Decides twice for each pass, before drafting and before verifying; learns the outcome."""

    def limit(self) -> int:
        """The most tokens worth drafting now; 0: leave the draft out."""

    def choose(self, proposal: Proposal) -> int:
        """How many tokens of a proposal to verify."""

    def learn(self, proposal: Proposal, sent: int, tokens: Sequence[int]) -> None:
        """A pass verified the first `sent` tokens of a proposal and gave `tokens`."""


class Fixed(Control):
    """Always the same length: for measuring."""

    def __init__(self, length: int) -> None:
        if length < 0:
            raise ParameterError(f"a draft cannot have {length} tokens.")
        self.length = length

    def limit(self) -> int:
        return self.length

    def choose(self, proposal: Proposal) -> int:
        return min(self.length, len(proposal.tokens))

    def learn(self, proposal: Proposal, sent: int, tokens: Sequence[int]) -> None:
        return None


def bucket(evidence: int) -> int:
    """The bucket of an amount of evidence: 0, 1, 2, 3, 4, 5-7, 8-15, 16-31, 32-63, more."""
    return _BUCKETS[min(evidence, _FULL)]


class Acceptance:
    """Running acceptance for each amount of evidence; old outcomes fade.

    It begins with an expected rate for each bucket: the usual rate after so many matches, or the
    rate here after fewer matches, where that is higher. memory: how many outcomes count. prior: the
    weight of the expected rate, in outcomes.
    """

    def __init__(self, memory: int = 16, prior: float = 4.0) -> None:
        self._keep, self._prior = 1 - 1 / memory, prior
        # Arrays: a pass empties the processor's caches, and every number of a list would be a miss.
        self._hits = array("d", bytes(8 * len(_USUAL)))
        self._tries = self._hits[:]
        self._rates = _USUAL[:]
        self._stale = False

    def rate(self, evidence: int) -> float:
        return self.rates(evidence, 1)[0]

    def rates(self, evidence: int, count: int) -> list[float]:
        """For each position of a chain: every accepted token is one more match."""
        if self._stale:
            self._refresh()
        return [self._rates[bucket(at)] for at in range(evidence, evidence + count)]

    def note(self, evidence: int, hit: bool) -> None:
        """Let old outcomes fade, and add one."""
        at = bucket(evidence)
        self._hits[at] = self._keep * self._hits[at] + hit
        self._tries[at] = self._keep * self._tries[at] + 1
        self._stale = True

    def learn(self, proposal: Proposal, came: Sequence[int]) -> list[bool]:
        """Note every outcome of a proposal, by the tokens that came; returns them in order."""
        outcomes = proposal.outcomes(came)
        for evidence, hit in enumerate(outcomes, proposal.evidence):
            self.note(evidence, hit)
        return outcomes

    def _refresh(self) -> None:
        below = 0.0
        for at, (hits, tries) in enumerate(zip(self._hits, self._tries, strict=True)):
            mean = max(_USUAL[at], below)
            self._rates[at] = (hits + self._prior * mean) / (tries + self._prior)
            below = self._rates[at] if tries else below
        self._stale = False


class Adaptive(Control):
    """The draft length with the best expected gain; 0 where no length gains.

    draft_cost: of one drafted token, in passes of one row. A source without cost drafts for every
    pass: tokens that are not worth verifying are still compared with the target's, so that
    acceptance is known without an extra row. A source with a cost that does not gain drafts one
    token at growing intervals. After four drafts in a row that were wrong from their first token,
    nothing is verified until a draft was right.

    longest: the most tokens of a draft; the measured costs allow costs.most - 1.
    """

    def __init__(
        self,
        costs: RowCosts,
        draft_cost: float = 0.0,
        longest: int | None = None,
    ) -> None:
        most = costs.most - 1
        self.longest = most if longest is None else min(longest, most)
        if self.longest < 1 or draft_cost < 0:
            raise ParameterError(
                f"drafts of up to {self.longest} tokens at a cost of {draft_cost}: a length of at "
                "least 1, costs of at least 2 rows and a cost of 0 or more are needed."
            )
        self.costs, self.draft_cost = costs, draft_cost
        self.acceptance = Acceptance()
        self._wait, self._passes = 8, 0  # between probes; since the last
        self._probing = False
        self._misses = 0  # in a row

    def limit(self) -> int:
        if not self.draft_cost:
            return self.longest
        if length := self._best(0, self.longest, self.draft_cost):
            self._probing, self._wait, self._passes = False, 8, 0
            return length
        self._passes += 1
        self._probing = self._passes >= self._wait
        if self._probing:
            self._wait, self._passes = min(2 * self._wait, _LONGEST_WAIT), 0
        return int(self._probing)

    def choose(self, proposal: Proposal) -> int:
        if self._probing and proposal.probs is not None:
            return len(proposal.tokens)  # only the rejection rule can judge a sampled token
        return self._best(proposal.evidence, min(len(proposal.tokens), self.longest))

    def _best(self, evidence: int, count: int, draft_cost: float = 0.0) -> int:
        if self._misses >= _PATIENCE:
            return 0
        return best_length(self.acceptance.rates(evidence, count), self.costs, draft_cost)

    def learn(self, proposal: Proposal, sent: int, tokens: Sequence[int]) -> None:
        drafted = proposal if proposal.probs is None else proposal.cut(sent)
        outcomes = self.acceptance.learn(drafted, tokens)
        if not outcomes:
            return
        self._misses = 0 if outcomes[0] else self._misses + 1
        if outcomes[0] and self._probing:
            self._wait = 1  # it may be worth its cost again: probe at once
