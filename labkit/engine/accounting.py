"""Counts and times of speculation: acceptance, tokens a pass, and where the time went."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from labkit.engine.row_costs import RowCosts


@dataclass
class Accounting:
    """Counts and seconds of one request, or of several that share this object.

    The prompt's pass, and the token that it yields, do not count. outcomes: {(tokens verified,
    tokens accepted): passes}. drafted: for each output token, the prompt's first included, whether
    a draft had it. lost: seconds spent on rejected rows, by `costs` where given, else by their
    share of the pass's rows. dropped: a line for each draft that failed.
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
        """Count a pass: of `sent` tokens it accepted `accepted`, and it gave `given` tokens."""
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
        """{draft length: passes}; length 0 counts passes without a draft."""
        found: Counter[int] = Counter()
        for (sent, _), count in self.outcomes.items():
            found[sent] += count
        return found

    @property
    def rows(self) -> Counter[int]:
        """{rows: passes}: a pass has the last token beside the draft."""
        return Counter({1 + length: count for length, count in self.lengths.items()})

    @property
    def proposed(self) -> int:
        """Draft tokens that were verified."""
        return sum(sent * count for (sent, _), count in self.outcomes.items())

    @property
    def accepted(self) -> int:
        """Draft tokens that are in the output."""
        return sum(accepted * count for (_, accepted), count in self.outcomes.items())

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted over proposed draft tokens; None where none was proposed."""
        return self.accepted / self.proposed if self.proposed else None

    def acceptance_at(self, length: int | None = None) -> list[float]:
        """Acceptance at each position of a draft, given that all before it were accepted.

        length: count drafts of this length only; None counts all.
        """
        items = [
            ((sent, accepted), n)
            for (sent, accepted), n in self.outcomes.items()
            if length is None or sent == length
        ]
        longest = max((sent for (sent, _), _ in items), default=0)
        return [self._rate_at(position, items) for position in range(longest)]

    @staticmethod
    def _rate_at(position: int, items: list[tuple[tuple[int, int], int]]) -> float:
        reached = sum(n for (sent, took), n in items if sent > position and took >= position)
        passed = sum(n for (_, took), n in items if took > position)
        return passed / reached if reached else 0.0

    @property
    def mean_accepted_length(self) -> float | None:
        """Output tokens for each target pass, its own included; None before the first pass."""
        return self.tokens / self.passes if self.passes else None

    def summary(self) -> dict[str, object]:
        """Plain values, for a table or a JSON file."""
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
