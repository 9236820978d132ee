"""The study of notebook 15: how close can one stream get to the limit of the memory?

It times transformers' `generate`, the plain decoder and the fused decoder, which makes one native
call a token, and the other engines that are installed. From a script:

    from labkit.studies import the_limit
    for finding in the_limit.run(rounds=8, peers=False):
        print(finding.variant, finding.phase, finding.value, finding.of_bare_read)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from labkit.bench.client import gguf_format
from labkit.bench.costs import Products, products
from labkit.bench.variants import VARIANTS
from labkit.report.told.compared import rebased
from labkit.report.told.decoders import settling_sentence
from labkit.report.told.finding import Finding
from labkit.report.told.plots import say, table
from labkit.studies import the_limit_figures as figures
from labkit.studies import the_limit_sentences as sentences
from labkit.studies import the_limit_tables as tables
from labkit.studies.fused_stages import STEP, shares
from labkit.studies.lab import TIMES
from labkit.studies.predictions import DASH
from labkit.studies.the_limit_measured import Measurements
from labkit.studies.the_limit_variants import (
    ALL_LOGITS,
    BF16,
    FUSED,
    PLAIN_OURS,
    engine,
    equal_runs,
)
from labkit.timing.statistics import interval

_UNKNOWN_BYTES = "the engine does not report the bytes that it reads"


@dataclass
class Study(Measurements):
    """What the notebook shows, one method a section. The inherited properties measure."""

    def same_answer(self) -> None:
        """Show how far each variant's answers differ, and that rows do not affect each other."""
        if self.device not in ("auto", "cpu"):
            say(
                "The native kernel and the other engines run on the CPU; this notebook measures "
                f"the CPU, not {self.device}."
            )
        if self.dtype != "float32":
            say(
                "The exact decoder and the baseline are float32 here, not "
                f"{self.dtype}; `{BF16}` is the row in bfloat16."
            )
        if self.fused is None:
            say(f"**The fused decoder is left out**: {self.missing}")
        else:
            say(
                f"{self.same_bits} rows in one pass of the fused decoder gave the same bits as in "
                "passes of one row each."
            )
        found, failed = self.judged
        positions = next((int(one["positions"]) for one in found.values()), 0)
        table(
            tables.answers(found, (name for name in self.names if name != ALL_LOGITS)),
            caption=f"Answers on {positions:,} positions of prose and code against the exact "
            "float32 decoder on the model's own values, with 95 % intervals over stretches of text"
            + self._asked(),
        )
        for name, why in failed.items():
            say(f"The answers of **{name}** could not be judged: {why}")

    def _asked(self) -> str:
        if not self.questions:
            return ""
        return f". Right answers: of {2 * self.questions} short questions, sums and look-ups"

    def predict(self) -> None:
        """Show the limits of a token and of the prompt, before anything is timed."""
        if names := sentences.of_names(self.names):
            say(names)
        table(
            tables.expected_decode(self.lab, self.expected),
            caption="The decode limit on this machine, by the sustained reads of this run",
        )
        table(
            tables.expected_prefill(self.lab),
            caption=f"The limit of a prompt of {self.prompt_tokens} tokens, by the arithmetic of "
            "its products; the limit is at the best rate",
        )

    def measure(self) -> None:
        """Time every variant; say which could not run, and show what ran."""
        comparison, _, loaded = self.ladder
        for name, why in comparison.failed.items():
            say(f"**{name}** could not be measured: {why}")
        table(tables.engines(loaded, self.engines), caption="What ran, and how it was built")
        if self.screened_in(comparison):
            same, every = equal_runs(comparison, FUSED, ALL_LOGITS)
            say(
                "With the head screened, the tokens are the same as with every logit computed, in "
                f"{same} of {every} rounds of {self.new_tokens} tokens."
            )

    def against_limit(self) -> None:
        """Show each variant against the bare read of its bytes, its limit and the others."""
        lab, found, names = self.lab, self.ladder, self.engines
        comparison = found.comparison
        table(
            tables.decode(lab, found, names),
            caption=f"Decoding {self.new_tokens} tokens after {self.prompt_tokens}, "
            f"{comparison.rounds} rounds, {lab.hardware.threads} threads; all variants "
            f"interleaved. Limit: by the best sustained read of this run (by the slowest); {DASH}",
        )
        say(sentences.control(comparison))
        if self.timed_mine:
            self._show_mine()
        self._show_rates()
        table(
            tables.prefill(lab, found, self.arithmetic, names),
            caption=f"Reading the prompt of {self.prompt_tokens} tokens, in the same rounds. Bare "
            f"work: the same products, or the same bytes, whichever sets the limit; {DASH}",
        )

    def _show_mine(self) -> None:
        found, mine, others = self.ladder, self.mine, self.others
        say(sentences.against_bare(found, mine))
        if told := settling_sentence(found.comparison, mine):
            say(told)
        say(sentences.against_others(found, mine, others))
        table(
            tables.beside(found, mine, others),
            caption=f"How many times as fast `{mine}` decodes, paired within rounds; first those "
            "whose steps read the most similar number of bytes",
        )
        if self.screened_in(found.comparison):
            say(sentences.screening(found))

    @property
    def others(self) -> list[str]:
        """The timed variants that are not the fused decoder."""
        return [name for name in self.engines if VARIANTS[name].module is None]

    @property
    def timed_mine(self) -> bool:
        """Whether the fused decoder was timed among the variants."""
        return self.mine in self.engines

    @cached_property
    def arithmetic(self) -> dict[str, Products]:
        """Of each timed variant: the dtype of its products, or why it is not known."""
        file = self.where.gguf
        file_format = gguf_format(file) if file else None
        return {name: products(VARIANTS[name], file_format) for name in self.engines}

    def _show_rates(self) -> None:
        rates, comparison = self.rates, self.ladder.comparison
        ours = [name for name in rates if name in PLAIN_OURS or VARIANTS[name].module]
        fastest = max(rates, key=lambda name: rates[name])
        costs = {name: cost for name in rates if (cost := self.cost(name))}
        limits = {n: self.lab.least(cost).standing(1 / rates[n]) for n, cost in costs.items()}
        told = {name: share for name in rates if (share := comparison.share(name))}
        figures.rates(
            rates,
            {name: 1 / held.seconds for name, held in limits.items() if held},
            {name: rates[name] / share.value for name, share in told.items()},
            ours,
            f"The fastest is {fastest} with {rates[fastest]:,.0f} tokens a second; "
            f"{comparison.baseline} gives {rates[comparison.baseline]:,.0f}.",
            "Blue: our decoders and transformers. Grey: other engines. Orange: the limit of the "
            "bytes that each reads, where it was not faster. Green: the bare read of these bytes, "
            "in the same rounds.",
        )

    def why(self) -> None:
        """Show where the time of the fused decoder's step goes, and what more rows cost."""
        passes = self.passes
        if passes is None:
            say("The fused decoder is left out, so its step cannot be analysed.")
            return
        comparison, mine, found = self.ladder.comparison, self.mine, shares(passes)
        if self.timed_mine:
            say(sentences.of_the_step(self.ladder, mine))
        table(
            tables.stages(found, comparison.mean(mine) if self.timed_mine else None),
            caption="What leaving a stage out saves, as a share of a decode step with 95 % "
            f"intervals; {passes.rounds} rounds at a context of {self.lab.middle}",
        )
        say(sentences.of_the_stages(found))
        if self.timed_mine:
            both = (interval(one) for one in (passes.values(STEP), comparison.values(mine)))
            say(sentences.two_moments(*both))
        table(
            tables.more_rows(passes, self.row_counts),
            caption="The cost of more rows in a pass, as in verifying drafts and in batching, in "
            "passes of one row",
        )
        if (contexts := self.contexts) is not None:
            lengths = self.lab.middle, self.long_context
            costs = [self.step_at(length) for length in lengths]
            say(sentences.long_context(contexts, *lengths, costs))

    def findings(self) -> list[Finding]:
        """Save and show the findings of every variant but the baseline: decode and prefill. Then
        those of the fused decoder against each engine that reads the same weights."""
        baseline = self.ladder.comparison.baseline
        names = [name for name in self.engines if name != baseline]
        phases = ("decode", "prefill")
        found = [self._finding(name, phase) for phase in phases for name in names]
        return self.lab.save([*found, *self._on_the_same_bytes(found)])

    def _on_the_same_bytes(self, found: Sequence[Finding]) -> Iterator[Finding]:
        comparison, _, loaded = self.ladder
        for own in (one for one in found if one.variant == self.mine):
            for name in sentences.sharing(self.ladder, self.mine, self.others):
                other = {"baseline": engine(name, loaded[name])}
                yield replace(rebased(own, comparison, name), engine=own.engine | other)

    def _finding(self, name: str, phase: str) -> Finding:
        comparison, _, loaded = self.ladder
        one, baseline = loaded[name], comparison.baseline
        known = one.weight_bytes is not None
        return self.lab.finding(
            comparison,
            name,
            phase=phase,
            cost=self.cost(name, TIMES[phase]),
            limit_note=self.arithmetic[name].says if known else _UNKNOWN_BYTES,
            quality=self.quality[name],
            weights=one.weights,
            model={"dtype": one.weights, "weight_bytes": one.weight_bytes},
            engine=engine(name, one) | {"baseline": engine(baseline, loaded[baseline])},
        )

    def elsewhere(self) -> None:
        """Show the limit of the same steps on other machines."""
        table(
            tables.elsewhere(self.expected),
            caption="The decode limit in tokens/s, from datasheet bandwidths. Real passes also "
            "spend time on launches and barriers, whose share is larger where the memory is "
            "faster. No rate is told where the bytes fit a last-level cache whose bandwidth is "
            "not printed",
        )


def run(**parameters: Any) -> list[Finding]:
    """The whole study, section after section; parameters: fields of Study."""
    study = Study(**parameters)
    study.same_answer()
    study.predict()
    study.measure()
    study.against_limit()
    study.why()
    findings = study.findings()
    study.elsewhere()
    return findings
