"""The study of notebook 06: what do caches of prefixes and of answers save, and what do they cost?

First tokens after a shared prefix: computed again, from memory, from disk. Whole loads with a
prefix cache and without. Requests that find nothing. Identical requests, answered from a file. And
how often a cache that answers *nearly* identical questions would be wrong. From a script:

    from labkit.studies import caching
    for finding in caching.run(prefixes=[64, 512], rounds=5, workloads=["chats"]):
        print(finding.variant, finding.speedup)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from labkit.report.told.finding import Finding
from labkit.report.told.plots import say, table
from labkit.studies import caching_figures as figures
from labkit.studies import caching_sentences as told
from labkit.studies import caching_tables as tables
from labkit.studies.caching_findings import every
from labkit.studies.caching_first import CACHED, DISK, HELD, MEMORY, WAYS
from labkit.studies.caching_loads import ON, TIME, Load
from labkit.studies.caching_parts import mean_of
from labkit.studies.caching_sections import Sections
from labkit.studies.predictions import DASH, EARLIER_DASH, Prediction, no_change, score
from labkit.timing.compare import Comparison
from labkit.timing.statistics import Ratio, interval

_SOONER = 20.0  # times, that a first token from memory is asked to come as soon


@dataclass
class Study(Sections):
    """What the notebook shows, one method a section. The inherited properties measure."""

    def same_answer(self) -> None:
        """Show that cached prefixes change no bit; AssertionError where they do."""
        if self.target.reason:
            reason = self.target.reason.rstrip(".")
            say(f"Everything below runs on the plain decoder: {reason}.")
        for found in self.proved:
            say(told.of_proof(found))
            assert found.lossless, found
            assert found.exact or not self.exact, found

    def predict(self) -> None:
        """Show the break-even of the disk, the limit and the predicted time of first tokens, and
        the gain that each load leads to expect, before any of them is compared."""
        first = self.first
        tier = first.tier_rate(DISK)
        say(told.of_break_even(self.break_even, first.disk, tier, first.earlier.rounds))
        table(
            tables.expected_first(first),
            caption=f"The predicted time of the first token, {self.own_tokens} tokens after the "
            "shared ones (its limit, by the best and by the slowest sustained rates; "
            f"{EARLIER_DASH})",
        )
        lengths, expected = list(first.prefixes), first.expected
        say(
            told.of_expected(
                expected.pays_from(self.own_tokens, lengths),
                expected.sooner_from(self.own_tokens, lengths, _SOONER),
                _SOONER,
            )
        )
        if self.whole:
            table(
                tables.expected_loads(self.whole.values()),
                caption="What an earlier load of other texts leads to expect: the gain is "
                "1 / (1 - hit rate x share of prefill)",
            )
        for name, why in self.left_out.items():
            say(f"**{name}** is left out: {why}.")

    def measure(self) -> None:
        """Time everything: first tokens, loads, requests that find nothing, identical ones."""
        parts = [
            f"{len(self.first.comparisons)} prefixes, {self.rounds} rounds each",
            f"{len(self.whole)} loads, {self.load_rounds} rounds each",
            f"{self.nothing.comparison.rounds} rounds of requests that find nothing",
            f"{self.identical.comparison.rounds} rounds of identical requests",
        ]
        for found in self._comparisons.values():
            for name, reason in found.failed.items():
                say(f"**{name}** is missing from this page. {reason}")
        say(f"Measured: {'; '.join(parts)}.")

    @property
    def _comparisons(self) -> dict[str, Comparison]:
        """Every comparison by what it is of."""
        first = {f"{n:,} shared tokens": one for n, one in self.first.comparisons.items()}
        loads = {name: one.comparison for name, one in self.whole.items()}
        alone = {"no hits": self.nothing.comparison, "identical": self.identical.comparison}
        return first | loads | alone

    def against_limit(self) -> None:
        """Show the first tokens against recomputing and against their limits."""
        first = self.first
        table(
            tables.first_tokens(first),
            caption=f"The first token, {self.own_tokens} tokens after the shared ones, "
            f"{self.rounds} rounds. Limit: by the best and by the slowest sustained rates; at "
            f"their limits: the limit of recomputing over this limit; {DASH}",
        )
        self._show_figure()
        for way in CACHED:
            say(told.of_crossing(way, first.faster_from(way), first.prefixes))
        say(told.of_gains(self._longest, self._gains))
        say(told.of_storage(first.share_fetched(HELD), first.share_fetched(DISK)))
        found = first.comparisons.items()
        say(told.of_trust([f"{n:,} shared tokens" for n, one in found if not one.trusted("ttft")]))

    @property
    def _longest(self) -> int:
        return self.first.prefixes[-1]

    @property
    def _gains(self) -> dict[str, Ratio]:
        """How many times as soon the first token came after the longest prefix."""
        found = self.first.comparisons[self._longest]
        return {way: found.speedup(way, "ttft") for way in CACHED if way in found.variants}

    def _show_figure(self) -> None:
        first = self.first
        measured = {
            way: {
                length: interval(found.values(way, "ttft"))
                for length, found in first.comparisons.items()
                if way in found.variants
            }
            for way in WAYS
        }
        least = {
            way: {
                length: held.seconds
                for length, taken in of.items()
                if (held := first.least(way, length).standing(taken.value))
            }
            for way, of in measured.items()
        }
        loads = {
            name: (one.hit_rate, one.comparison.speedup(ON, TIME))
            for name, one in self.whole.items()
        }
        figures.first_token_and_loads(
            measured,
            least,
            loads,
            told.of_gains(self._longest, self._gains),
            "Left: time to the first token, with 95 % intervals. Right: hit rate of each load, and "
            "the time that the prefix cache saved of it; on the dotted line both are equal.",
        )

    def whole_loads(self) -> None:
        """Show what hit rates really save."""
        loads = list(self.whole.values())
        if not loads:
            say("No load fits this model.")
            return
        table(
            tables.whole_loads(loads),
            caption=f"Loads, {self.slots} requests at the same time, {self.load_rounds} rounds, "
            "empty caches and other texts in each. Prefill saved: how much less time the passes "
            "took that read prompts; what the rows of answers in them usually take is taken off",
        )
        same = {one.name: one.same for one in loads}
        say(told.of_same_loads(same))
        assert not self.exact or set(same.values()) == {1.0}, same
        best = max(loads, key=lambda one: one.hit_rate)
        ratio = best.comparison.speedup(ON, TIME)
        say(told.of_saving(best.name, best.hit_rate, best.prefill_share, ratio))
        table(tables.controls(loads), caption="The control of each load: no cache, a second time")
        wrong = [one.name for one in loads if not one.comparison.trusted(TIME)]
        say(told.of_trust(wrong))

    def why(self) -> None:
        """Tell how the predictions did, and where the rest of the time goes."""
        times, gains = self.first.predictions(), [self._gain(one) for one in self.whole.values()]
        say(score("times of the first token", times))
        if gains:
            say(f"{score('gains of the loads', gains)} {no_change([g.measured for g in gains])}")
        first, length = self.first, self._longest
        found = first.comparisons[length]
        table(
            tables.where_time_goes(first.seen, found, length),
            caption=f"Where the time of the first token goes, after {length:,} shared tokens: "
            "geometric means of all turns. From disk, the engine itself reads, checks and copies",
        )
        taken = {way: found.mean(way, "ttft") for way in found.variants}
        if MEMORY in taken:
            fraction = first.least(MEMORY, length).fraction(taken[MEMORY])
            say(told.of_memory(length, fraction, *mean_of(first.seen, length, MEMORY)))
        if MEMORY in taken and HELD in taken:
            fetching = taken[DISK] - taken[HELD] if DISK in taken else None
            held, cached = (mean_of(first.seen, length, way)[0] for way in (HELD, MEMORY))
            extra = taken[HELD] - taken[MEMORY]
            say(told.of_parts(length, self.parts, extra, held - cached, fetching))

    def _gain(self, load: Load) -> Prediction:
        return Prediction(load.name, load.expected, load.comparison.speedup(ON, TIME))

    def findings(self) -> list[Finding]:
        """Save what was found, and show it."""
        return self.lab.save(list(every(self)))

    def elsewhere(self) -> None:
        """Show the break-even of a disk on other machines and with other models."""
        table(
            tables.elsewhere(),
            caption="The rate from which a disk is worth reading, if a prompt of 1,024 tokens is "
            "computed at the limit: keys and values of a token in 16 bits, times prefill tokens a "
            "second, by the rates that vendors print",
        )
        say(
            "Nothing ran on these machines. A prefill below its limit lowers the break-even in "
            "proportion. A larger model needs more arithmetic for a token than bytes for its keys "
            "and values, so a disk pays sooner. A faster processor makes it pay later."
        )


def run(**parameters: Any) -> list[Finding]:
    """The whole study, section after section; parameters: fields of Study."""
    study = Study(**parameters)
    study.same_answer()
    study.predict()
    study.measure()
    study.against_limit()
    study.whole_loads()
    study.zero_hits()
    study.answered_before()
    study.semantic()
    study.why()
    findings = study.findings()
    study.elsewhere()
    return findings
