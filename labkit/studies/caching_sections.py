"""Sections of notebook 06: what a prefix cache costs without hits, and caches of whole answers."""

from __future__ import annotations

from functools import cached_property

from labkit.report.told.plots import say, table
from labkit.report.told.words import percent
from labkit.studies import caching_figures as figures
from labkit.studies import caching_sentences as told
from labkit.studies import caching_tables as tables
from labkit.studies.caching_alone import ANSWERED, COMPUTED, OFF
from labkit.studies.caching_loads import QUESTIONS, RECALLED, repeated_share
from labkit.studies.caching_measured import Measurements
from labkit.studies.caching_near import Cell
from labkit.timing.statistics import interval

# For the table of Zipf's law: exponents, how many requests there may be, how many are asked.
_EXPONENTS, _MANY, _REQUESTS = (0.0, 0.5, 1.0, 1.5), 1000, (100, 1000, 10_000)


class Sections(Measurements):
    """What is shown of single requests, one method a section."""

    def zero_hits(self) -> None:
        """Show what a prefix cache costs where it finds nothing."""
        found = self.nothing
        for way in found.comparison.variants:
            if way != OFF:
                rounds = found.comparison.rounds
                longer, own = found.longer(way), found.longer_by_own(way)
                say(told.of_zero(way, longer, own, found.hits, rounds))
                if (behind := found.written_behind(way)).high > 1:
                    say(told.of_writing_behind(behind))
        control = found.comparison.speedup(found.comparison.control, "e2e_latency")
        say(f"The control, {OFF} a second time: {control}. The truth is 1.00x.")

    def answered_before(self) -> None:
        """Show how soon identical requests are answered, and how many there are by Zipf's law."""
        found = self.identical.comparison
        if ANSWERED in found.variants:
            computed, answered = (
                interval(found.values(way, "e2e_latency")) for way in (COMPUTED, ANSWERED)
            )
            ratio, same = found.speedup(ANSWERED, "e2e_latency"), self.identical.same
            seeded, unseeded = self.identical.seeded, self.identical.unseeded()
            assert not self.exact or (same[0], seeded[0]) == (same[1], seeded[1]), (same, seeded)
            say(told.of_identical(computed, answered, ratio, same, seeded, unseeded))
        if (asked := self.whole.get(QUESTIONS)) and RECALLED in asked.comparison.variants:
            say(told.of_recalled(asked.recalled, asked.recallable, self.slots))
        table(
            [
                {"requests": count}
                | {f"s = {s:g}": percent(repeated_share(count, _MANY, s)) for s in _EXPONENTS}
                for count in _REQUESTS
            ],
            caption=f"The share of requests that repeat an earlier one, of {_MANY:,} different "
            "ones whose popularity is 1 / rank^s: the most that a response cache can answer. "
            "Computed, not timed",
        )

    @cached_property
    def cells(self) -> dict[tuple[str, float], Cell]:
        """What a semantic cache would do, by way to compare and threshold."""
        ways = self.near.similarities
        return {(way, t): self.near.at(way, t) for way in ways for t in sorted(self.thresholds)}

    def semantic(self) -> None:
        """Show how often a cache that answers near questions would be wrong."""
        if not self.near_questions:
            say("Left out: the parameter `near_questions` is 0.")
            return
        right, count = self.near.own_right()
        table(
            tables.near(self.cells),
            caption=f"{count} questions are in the cache, and the nearest one's answer is given. "
            "Wrong: it says another value than the model's own answer to the question. (The model "
            f"itself answers {right} of the {count} right)",
        )
        ways = self.near.similarities
        rates = {
            way: {t: rate for (w, t), cell in self.cells.items()
                  if w == way and (rate := cell.wrong_rate) is not None}
            for way in ways
        }  # fmt: skip
        said = told.of_near(self.cells, self.near.by_kind())
        if any(rates.values()):
            figures.wrong_answers(rates, said, "With exact 95 % intervals.")
        say(said)
