"""The study of notebook 04: how much faster are fewer bits, and how far do they change answers?

The same model is rounded to 8 and to 4 bits by several methods, judged against the plain decoder on
text, and timed on every kernel that this machine has for it. What each variant will reach is told
beforehand, from earlier rounds on other texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from labkit.base.units import scaled
from labkit.optimize import quantization as routines
from labkit.report.told.compared import Least
from labkit.report.told.decoders import settling_sentence
from labkit.report.told.finding import Finding
from labkit.report.told.plots import say, source, table
from labkit.studies import quantization_forecast as forecast
from labkit.studies import quantization_sentences as sentences
from labkit.studies.lab import TIMES
from labkit.studies.predictions import limit_told, speedup_at
from labkit.studies.quantization_figures import Point, quality_against_speed
from labkit.studies.quantization_measured import Measured
from labkit.studies.quantization_quality import answer_row, plain_row, positions_of
from labkit.studies.quantization_variants import PLAIN, cache_shares

OTHER_CONTEXT = 8192  # tokens, of the table of other models
SOURCES = {
    "rtn": routines.round_to_nearest,
    "symmetric": routines.round_to_nearest,
    "hqq": routines.hqq,
    "gptq": routines.gptq,
}


@dataclass
class Study(Measured):
    """The experiment, section by section; the fields are the notebook's parameters."""

    def explain(self) -> None:
        """Show what each method of this run does, and its source."""
        for method in self.methods:
            say(sentences.METHODS[method])
        for routine in dict.fromkeys(SOURCES[method] for method in self.methods):
            source(routine)

    def same_answer(self) -> None:
        """Show how far packed decoders agree with their twins, and what does not run here."""
        for name, found in self.same.items():
            say(f"**{name}**, packed integers with inputs in float32 against the twin: {found}.")
        if not self.same:
            say("No packed decoder runs here, so none was compared with its twin.")
        for name, reason in self.attempted[1].items():
            say(f"**{name}** does not run here: {reason}")

    def predict(self) -> None:
        """Show the bytes of a token, its limit, and what each variant will reach."""
        plain = self.earlier.mean(PLAIN)
        say(sentences.reference(self.stored, self.lab.dtype))
        table(
            [self._before(name, plain) for name in self.timed],
            caption=f"One token after {self.lab.middle}: what is told before the measurement",
        )
        say(sentences.AT_ITS_LIMIT)
        sources = {one.source for one in self.forecasts}
        say(sentences.forecast_from(self.earlier.rounds, plain, sources))

    def _before(self, name: str, plain: float) -> dict[str, object]:
        """A row of what is told beforehand. plain: seconds of the plain decoder's token."""
        cost = self.costs[name, "decode"]
        least: Least | None = self.lab.least(cost)
        if least and name in self.earlier.traces:
            least = least.standing(self.earlier.mean(name))
        told = next((one for one in self.forecasts if one.variant == name), None)
        return {
            "variant": name,
            "weights": self.words[name],
            "bytes of weights": scaled(cost.weight_bytes, "B"),
            "KV a token": scaled(cost.kv_write_bytes, "B"),
            "limit": limit_told(least),
            "at its limit": speedup_at(least, plain),
            "forecast, of the bare read": f"{told.share:.0%}" if told else "–",
            "forecast from": told.source if told else "–",
        }

    def measure(self) -> None:
        """Judge the answers, then time every variant."""
        told, found = self.quality.told, self.comparison
        say(sentences.measured(len(told), positions_of(told), len(found.variants), found.rounds))

    def answers(self) -> None:
        """Show how far answers differ: of the methods, of what runs, and at a long context."""
        tables = self.quality.tables
        _answers(tables["methods"], "The methods' weights, multiplied as the plain decoder's are")
        asked = f". Right answers: of {2 * self.questions} short questions, sums and look-ups"
        _answers(
            tables["running"],
            "What runs, as its kernels compute it",
            [plain_row(told) for told in tables["plain"].values()],
            asked if self.questions else "",
        )
        for sentence in self.quality.sentences(self.group):
            say(sentence)
        if far := tables["long_context"]:
            say(sentences.long_context(self.piece_tokens, self.long_context, positions_of(far)))
            _answers(far, f"What runs, after {self.long_context:,} tokens of one text")

    @cached_property
    def shown(self) -> list[str]:
        """The variants that were judged and timed."""
        return [name for name in self.quality.told if name in self.comparison.traces]

    def against_limit(self) -> None:
        """Show the speed of every variant against its limit, by phase, and beside its answers."""
        found = self.comparison
        for phase, what in (
            ("decode", f"{self.new_tokens} tokens after {self.prompt_tokens}"),
            ("prefill", f"A prompt of {self.prompt_tokens} tokens"),
        ):
            rows = [self._speed(name, phase) for name in (PLAIN, found.control, *self.shown)]
            table(rows, caption=f"{what}, {found.rounds} rounds")
        say(sentences.COLUMNS)
        plain = self.costs[PLAIN, "decode"].weight_bytes
        points = {
            name: Point(
                rate=1 / found.mean(name),
                kl=self.quality.told[name]["kl_mean"],
                share=self.costs[name, "decode"].weight_bytes / plain,
            )
            for name in self.shown
        }
        if points:
            quality_against_speed(points, 1 / found.mean(PLAIN))

    def _speed(self, name: str, phase: str) -> dict[str, object]:
        """A row of the table of speeds."""
        found, time = self.comparison, TIMES[phase]
        cost = self.costs[PLAIN if name == found.control else name, phase]
        row = self.lab.row(found, name, cost, phase)
        bare = found.bare.get((PLAIN if name == found.control else name, time))
        least = self.lab.least(cost).standing(found.mean(name, time))
        if name == PLAIN:  # nothing is compared with itself here: the control is
            row |= {"speedup": "–", "could have seen": "–"}
        return row | {
            "at its limit": speedup_at(least, found.mean(PLAIN, time)),
            "held against": bare.name if bare else "–",
        }

    @cached_property
    def held(self) -> list[forecast.Held]:
        """The forecasts with what was measured after they were told."""
        found = forecast.held(self.forecasts, self.comparison)
        self.lab.keep_samples("forecasts", {"rows": [one.to_dict() for one in found]})
        return found

    def forecasts_held(self) -> None:
        """Show which forecasts held."""
        table(
            [one.row() for one in self.held],
            caption="Forecasts of the share of the bare read, and what was measured afterwards",
        )
        plain = next((one.share for one in self.forecasts if one.variant == PLAIN), None)
        say(forecast.sentence(self.held, plain))

    def why(self) -> None:
        """Show how much of each variant's time lies beyond its bare read."""
        found, plain = self.comparison, self.costs[PLAIN, "decode"].read_bytes
        for name in self.shown:
            part = self.costs[name, "decode"].read_bytes / plain
            bare = found.bare.get((name, TIMES["decode"]))
            say(
                sentences.beyond_bare(
                    name, part, found.speedup(name), found.mean(name), found.share(name),
                    bare.name if bare else "",
                )
            )  # fmt: skip
            if told := settling_sentence(found, name):
                say(told)
        say(sentences.REST)

    def findings(self) -> list[Finding]:
        """Save what was found, and show it."""
        assert all(found.lossless for found in self.same.values())
        return self.lab.save(
            [
                self.lab.finding(
                    self.comparison,
                    name,
                    phase=phase,
                    cost=self.costs[name, phase],
                    weights=self.words[name],
                    quality=self.quality.told[name],
                )
                for phase in TIMES
                if phase != "end_to_end"
                for name in self.shown
            ]
        )

    def elsewhere(self) -> None:
        """Show the KV cache's share of the bytes that other models read."""
        table(
            cache_shares(OTHER_CONTEXT),
            caption="The KV cache's share of the bytes that a token reads, at a context of "
            f"{OTHER_CONTEXT:,}, by bits a weight and bits of the cache",
        )
        cost = self.costs[PLAIN, "decode"]
        say(sentences.weights_or_cache(cost.weight_bytes / cost.kv_read_bytes))


def _answers(
    told: Mapping[str, Mapping[str, Any]],
    what: str,
    first: Sequence[dict[str, object]] = (),
    asked: str = "",
) -> None:
    """A table of answers; nothing where nothing was judged. first: rows above them."""
    if told:
        table(
            [*first, *(answer_row(name, one) for name, one in told.items())],
            caption=f"{what}, against the plain decoder on {positions_of(told):,} positions{asked}",
        )


def run(**parameters: Any) -> list[Finding]:
    """The whole study, section after section; parameters: fields of Study."""
    study = Study(**parameters)
    study.explain()
    study.same_answer()
    study.predict()
    study.measure()
    study.answers()
    study.against_limit()
    study.forecasts_held()
    study.why()
    findings = study.findings()
    study.elsewhere()
    return findings
