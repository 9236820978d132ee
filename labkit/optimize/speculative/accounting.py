"""What speculation did: acceptance, tokens a pass, and where the time went."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from labkit.optimize.speculative.costs import RowCosts


@dataclass
class Accounting:
    """Counts and seconds of one request, or of several that are given the same one.

    The prompt's own pass, and the token it yields, are no part of it. outcomes: {(tokens
    verified, tokens accepted): passes}. drafted: for each output token, the prompt's first one
    included, whether a draft foresaw it. lost: seconds that rejected rows cost; by `costs` where
    given, else their share of the pass's rows. dropped: drafts that failed, and how.
    """

    costs: RowCosts | None = None
    outcomes: Counter[tuple[int, int]] = field(default_factory=Counter)
    tokens: int = 0
    drafting: float = 0.0
    verifying: float = 0.0
    lost: float = 0.0
    drafted: list[bool] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def note(self, sent: int, accepted: int, given: int, verifying: float) -> None:
        """A pass that verified `sent` tokens, of which `accepted` stand among `given` tokens."""
        self.outcomes[sent, accepted] += 1
        self.tokens += given
        self.verifying += verifying
        self.drafted += [True] * accepted + [False] * (given - accepted)
        if accepted < sent:
            self.lost += verifying * self._share_lost(sent, accepted)

    def _share_lost(self, sent: int, accepted: int) -> float:
        if self.costs is None or sent >= self.costs.most:
            return (sent - accepted) / (sent + 1)
        return max(0.0, 1 - self.costs.r(accepted + 1) / self.costs.r(sent + 1))

    @property
    def passes(self) -> int:
        """Target passes after the prompt's."""
        return self.outcomes.total()

    @property
    def lengths(self) -> Counter[int]:
        """{draft length: passes}; 0 are the passes of plain decoding."""
        found: Counter[int] = Counter()
        for (sent, _), count in self.outcomes.items():
            found[sent] += count
        return found

    @property
    def proposed(self) -> int:
        """Draft tokens that were verified."""
        return sum(sent * count for (sent, _), count in self.outcomes.items())

    @property
    def accepted(self) -> int:
        """Draft tokens that stand in the output."""
        return sum(accepted * count for (_, accepted), count in self.outcomes.items())

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted over proposed draft tokens; None where none was proposed."""
        return self.accepted / self.proposed if self.proposed else None

    def acceptance_at(self, length: int | None = None) -> list[float]:
        """Acceptance at each place of a draft, given that all before it were accepted.

        length: of drafts of this length alone; of all drafts where it is not given.
        """
        items = [
            ((sent, stood), n)
            for (sent, stood), n in self.outcomes.items()
            if length is None or sent == length
        ]
        places = range(max((sent for (sent, _), _ in items), default=0))
        return [self._rate_at(place, items) for place in places]

    @staticmethod
    def _rate_at(place: int, items: list[tuple[tuple[int, int], int]]) -> float:
        reached = sum(n for (sent, stood), n in items if sent > place and stood >= place)
        passed = sum(n for (_, stood), n in items if stood > place)
        return passed / reached if reached else 0.0

    @property
    def mean_accepted_length(self) -> float | None:
        """Output tokens a target pass, its own one included; None before the first pass."""
        return self.tokens / self.passes if self.passes else None

    def summary(self) -> dict[str, Any]:
        """Plain values for a table, or for the traces folder of a run."""
        return {
            "tokens": self.tokens,
            "target_passes": self.passes,
            "proposed": self.proposed,
            "accepted": self.accepted,
            "acceptance_rate": self.acceptance_rate,
            "acceptance_at": self.acceptance_at(),
            "mean_accepted_length": self.mean_accepted_length,
            "seconds_drafting": self.drafting,
            "seconds_verifying": self.verifying,
            "seconds_lost": self.lost,
            "dropped": list(self.dropped),
        }
