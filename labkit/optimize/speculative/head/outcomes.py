"""What a head learns from its drafts within a request: how far to trust it, and what it gains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from labkit.engine.draft import Proposal

_LONGEST_REST = 16  # most passes without a draft, while drafts do not pay
_TRUST_FADES, _GAIN_FADES = 0.97, 0.95  # factors on older outcomes at each new one


class Guess(NamedTuple):
    """What one pass of the head offers, likeliest first.

    chances: the head's probabilities of the tokens. reaches: the probabilities that the output
    reaches them.
    """

    tokens: list[int]
    chances: list[float]
    reaches: list[float]


class Drafted(NamedTuple):
    """A draft: the length of its context, all guesses, what was sent, and what the pass cost."""

    start: int
    chain: list[Guess]
    sent: Proposal
    cost: float


class Outcomes:
    """Running averages over the drafts of a request.

    trust: number of drafted tokens that came, over the sum of their probabilities by the head.
    usual: the head's probability of its likeliest token. gain: tokens that a draft gave, over its
    cost in passes of the target.
    """

    def __init__(self) -> None:
        self.usual = 0.6
        self._hits, self._expected = 4.0, 4.0
        self._came, self._paid = 11.0, 10.0
        self._rest = self._resting = 0

    @property
    def trust(self) -> float:
        return self._hits / self._expected

    @property
    def gain(self) -> float:
        return self._came / self._paid

    def note_chance(self, chance: float) -> None:
        """Add the head's probability of its likeliest token to the average."""
        self.usual = 0.95 * self.usual + 0.05 * chance

    def rests(self) -> bool:
        """Whether to skip this draft.

        While drafts do not pay, the pauses between them grow, up to 16 passes.
        """
        if self._resting > 0:
            self._resting -= 1
            return True
        self._rest = min(2 * self._rest + 1, _LONGEST_REST) if self.gain < 1 else 0
        self._resting = self._rest
        return False

    def learn(self, drafted: Drafted, context: Sequence[int]) -> None:
        """Compare a draft with what came after it."""
        came = context[drafted.start :]
        likeliest = Proposal([guess.tokens[0] for guess in drafted.chain])
        for hit, guess in zip(likeliest.outcomes(came), drafted.chain, strict=False):
            self._hits = 4 + _TRUST_FADES * (self._hits - 4) + hit
            self._expected = 4 + _TRUST_FADES * (self._expected - 4) + guess.chances[0]
        tokens = len(drafted.sent.rows_of(came))  # the accepted ones, and the target's own
        self._came = _GAIN_FADES * self._came + tokens
        self._paid = _GAIN_FADES * self._paid + drafted.cost
