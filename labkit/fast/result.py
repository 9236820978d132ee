"""The figures of one answer: how fast it was, how near to the limit, and what drafts gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from labkit.timing.trace import Trace

NOT_MEASURED = "limit not measured yet (measure=True or --measure measures this machine)"
BEATEN = "faster than the limit as measured (`labkit limit --remeasure` measures again)"


class Piece(str):
    """Text of an answer. drafted: whether its last token came from a draft."""

    drafted: bool

    def __new__(cls, text: str, drafted: bool = False) -> Piece:
        made = super().__new__(cls, text)
        made.drafted = drafted
        return made


@dataclass(frozen=True)
class Result:
    """What is known of an answer, whole or so far.

    trace: from when it was due (0) to its last token, in seconds that were spent on it: the time of
    the code that reads the pieces is left out. Its tokens are those of the answer, the one that
    ends it included. None before the first token. cached: prompt tokens that the prefix cache had.
    finish: "stop_id", "stop_string" or "length"; "" where it is not over. passes: of the target
    after the prompt's, by their rows. proposed, accepted: drafted tokens; None without drafts.
    least: the seconds that these passes take at least at the best sustained rates of this machine;
    None where it was not measured.
    """

    text: str
    trace: Trace | None
    prompt_tokens: int
    cached: int = 0
    finish: str = ""
    passes: Mapping[int, int] = field(default_factory=dict)
    proposed: int | None = None
    accepted: int | None = None
    least: float | None = None

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens of the answer."""
        return self.trace.tokens if self.trace else ()

    @property
    def tokens_per_second(self) -> float | None:
        """The decode rate; None below two tokens, or where all of them came at once."""
        return self.trace.decode_rate if self.trace else None

    @property
    def limit(self) -> float | None:
        """The most tokens a second for this answer: as many as came, by passes that do nothing but
        read their bytes, or compute, at this machine's best sustained rates. It counts the passes
        that were made, so that accepted drafts raise it. None where the machine was not measured,
        and where the answer was faster: then it was none."""
        rate = self.tokens_per_second
        if rate is None or not self.least or self.trace is None:
            return None
        most = (len(self.tokens) - 1) / self.least
        return most if most >= rate else None

    @property
    def fraction_of_limit(self) -> float | None:
        """The rate over the limit; None where there is no limit."""
        rate, limit = self.tokens_per_second, self.limit
        return rate / limit if rate and limit else None

    @property
    def line(self) -> str:
        """All of it in one line."""
        return ", ".join(self._parts())

    def _parts(self) -> list[str]:
        count = len(self.tokens)
        said = ["1 token" if count == 1 else f"{count:,} tokens"]
        if (rate := self.tokens_per_second) is not None:
            said += [f"{_short(rate)} tok/s", self._limit_part()]
        if self.proposed is not None:
            said.append(f"{self.accepted:,} of {self.proposed:,} drafts accepted")
        if self.cached:
            said.append(f"{self.cached:,} of {self.prompt_tokens:,} prompt tokens cached")
        return said

    def _limit_part(self) -> str:
        if self.least is None:
            return NOT_MEASURED
        limit, fraction = self.limit, self.fraction_of_limit
        if limit is None or fraction is None:
            return BEATEN
        return f"{100 * fraction:.0f} % of the limit {_short(limit)} tok/s"

    def __str__(self) -> str:
        return self.line


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
