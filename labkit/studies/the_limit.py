"""The study of notebook 15: how close can one stream get to the limit of the memory?

It times transformers' `generate`, the plain decoder and the fused decoder, which makes one native
call a token, and the other engines that are installed. From a script:

    from labkit.studies import the_limit
    for finding in the_limit.run(rounds=8, peers=False):
        print(finding.variant, finding.phase, finding.value, finding.fraction_of_limit)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from labkit.base.units import scaled, seconds
from labkit.bench.variants import BARE
from labkit.limits.datasheet import machines
from labkit.report.told.finding import Finding
from labkit.report.told.plots import say, table
from labkit.studies import the_limit_figures as figures
from labkit.studies.fused_stages import CALL, REST
from labkit.studies.the_limit_measured import Measurements
from labkit.studies.the_limit_variants import ALL_LOGITS, FUSED, PLAIN_OURS, equal_runs

_UNKNOWN_BYTES = "the engine does not report the bytes that it reads"
_PREFILL_LIMIT = "int8 arithmetic sets it, and its rate is not probed in the rounds"


@dataclass
class Study(Measurements):
    """What the notebook shows, one method a section. The inherited properties measure."""

    def same_answer(self) -> None:
        """Show how far the fused decoder's answers differ, and that rows do not affect each "
        "other."""
        if self.device not in ("auto", "cpu"):
            say(
                "The native kernel and the other engines run on the CPU; this notebook measures "
                f"the CPU, not {self.device}."
            )
        if self.fused is None:
            say(f"**The fused decoder is left out**: {self.missing}")
            return
        found = self.judged
        say(
            f"On {found['positions']:,} positions of text the fused decoder picks the same top "
            f"token as the exact decoder at {found['top1_agreement']:.1%}. The mean KL divergence "
            f"is {found['kl_mean']:.2g} nats (99th percentile {found['kl_p99']:.2g}), and the "
            f"perplexity is {found['perplexity_ratio']:.4f} times the exact decoder's. "
            f"{self.same_bits} rows in one pass gave the same bits as in passes of one row each."
        )

    def predict(self) -> None:
        """Show the limit of a token for each form of the weights, before anything is timed."""
        hardware = self.lab.hardware
        table(
            [
                {
                    "weights": name,
                    "bytes read a token": scaled(nbytes, "B"),
                    "bandwidth at that size": scaled(hardware.bandwidth(nbytes), "B/s"),
                    "limit": f"{hardware.bandwidth(nbytes) / nbytes:,.0f} tok/s",
                }
                for name, nbytes in self.expected.items()
            ],
            caption="The decode limit on this machine, by the bandwidth measured beforehand",
        )

    def measure(self) -> None:
        """Time every variant; say which could not run, and show the engines' notes."""
        comparison, _, told = self.ladder
        for name, why in comparison.failed.items():
            say(f"**{name}** could not be measured: {why}")
        for name, one in told.items():
            if one.note:
                say(f"**{name}** {one.note}.")
        if self.ladder.screened:
            same, every = equal_runs(comparison, FUSED, ALL_LOGITS)
            say(
                "With the head screened, the tokens are the same as with every logit computed, in "
                f"{same} of {every} runs."
            )

    def against_limit(self) -> None:
        """Show each variant against the limit of the bytes it reads."""
        comparison = self.ladder.comparison
        table(
            [self._row(name) for name in self.measured],
            caption=f"{self.new_tokens} tokens after {self.prompt_tokens}, {comparison.rounds} "
            f"rounds, {self.lab.hardware.threads} threads; all variants interleaved",
        )
        shares, rates = self.shares, self.rates
        if {BARE, ALL_LOGITS} <= shares.keys():
            say(
                f"`{BARE}` reads the {scaled(self.ladder.nbytes[BARE], 'B')} of a step and does "
                f"nothing else. In the rounds above it reached {shares[BARE]:.0%} of the limit. "
                "The fused decoder, with every logit computed, reached "
                f"{shares[ALL_LOGITS]:.0%}: it is {rates[ALL_LOGITS] / rates[BARE]:.0%} as fast "
                "as the bare read."
            )
        self._show_rates()

    def _row(self, name: str) -> dict[str, object]:
        comparison, nbytes, _ = self.ladder
        known, engine = name in nbytes, name in self.engines
        prefill = self.prompt_tokens / comparison.median(name, "ttft")
        return {
            "variant": name,
            "decode tok/s": self.rates[name],
            "against transformers": str(comparison.speedup(name)),
            "verdict": comparison.verdict(name),
            "bytes read a token": scaled(nbytes[name], "B") if known else "–",
            "of its limit": f"{self.shares[name]:.0%}" if known else "–",
            "prefill tok/s": prefill if engine else "–",
        }

    def _show_rates(self) -> None:
        rates, ours = self.rates, (*PLAIN_OURS, FUSED)
        fastest = max(self.engines, key=lambda name: rates[name])
        baseline = self.ladder.comparison.baseline
        figures.rates(
            rates,
            {name: rates[name] / share for name, share in self.shares.items()},
            [name for name in rates if name.startswith(ours)],
            f"The fastest is {fastest} with {rates[fastest]:,.0f} tokens a second; {baseline} "
            f"gives {rates[baseline]:,.0f}.",
            "Blue: our decoders and transformers. Grey: other engines, and the bare read.",
        )

    def why(self) -> None:
        """Show where the time of the fused decoder's step goes, and what more rows cost."""
        if self.fused is None:
            say("The fused decoder is left out, so its step cannot be analysed.")
            return
        total = sum(self.stages.values())
        table(
            [
                {"stage": name, "time a token": _told(spent), "share": f"{spent / total:.0%}"}
                for name, spent in self.stages.items()
            ],
            caption=f"A decode step of {seconds(total)} with all logits, at a context of "
            f"{self.lab.middle}: the fused decoder by itself, timed with and without each stage",
        )
        self._say_stages()
        costs = self.pass_seconds
        table(
            [
                {"rows in a pass": k, "time": seconds(spent), "T(k) / T(1)": spent / costs[1]}
                for k, spent in costs.items()
            ],
            caption="The cost of more rows in a pass, as in verifying drafts and in batching. The "
            "fused decoder by itself, passes of different sizes interleaved",
        )
        self._say_measurements(total)

    def _say_stages(self) -> None:
        lab, stages = self.lab, self.stages
        assert self.fused is not None
        reading = self.fused.all_logits_bytes + lab.middle * lab.config.kv_bytes_per_token(2)
        least = reading / lab.hardware.bandwidth(reading)
        products = stages["layer products"] + stages["head"]
        say(
            f"Reading {scaled(reading, 'B')} takes {seconds(least)} at the bandwidth measured for "
            f"that size. The matrix products, which read the weights, took {_told(products)}, "
            f"attention {_told(stages['attention'])}, and all barriers and the call itself "
            f"{seconds(stages[CALL])}."
        )
        rest = stages[REST]
        say(
            f"The overlap, {seconds(rest)}, is time that leaving out any one stage does not save."
            if rest >= 0
            else f"The other parts add up to {seconds(-rest)} more than the step: some time is "
            "saved by leaving out either of two stages, and is counted twice."
        )

    def _say_measurements(self, step: float) -> None:
        """List the times of a step, and how each was measured."""
        told = [
            f"{seconds(step)} by itself, interleaved with passes that leave stages out",
            f"{seconds(self.pass_seconds[1])} by itself, interleaved with passes of more rows",
        ]
        name = ALL_LOGITS if ALL_LOGITS in self.rates else self.fused_name
        if name in self.rates:
            token = seconds(1 / self.rates[name])
            told.insert(0, f"{token} a token of `{name}`, interleaved with the other variants")
        say(
            "This page times a decode step of the fused decoder more than once: "
            + "; ".join(told)
            + "."
        )

    def findings(self) -> list[Finding]:
        """Save and show the findings of every variant but the baseline: decode and prefill."""
        lab, ladder = self.lab, self.ladder
        others = [name for name in self.engines if name != ladder.comparison.baseline]
        decode = [
            lab.finding(
                ladder.comparison, name,
                limit_seconds=self.least(name) if name in ladder.nbytes else None,
                limit_note=None if name in ladder.nbytes else _UNKNOWN_BYTES,
                quality=self.quality[name],
            )
            for name in others
        ]  # fmt: skip
        prefill = [
            lab.finding(
                ladder.comparison, name,
                phase="prefill", limit_note=_PREFILL_LIMIT, quality=self.quality[name],
            )
            for name in others
        ]  # fmt: skip
        return lab.save(decode + prefill)

    def elsewhere(self) -> None:
        """Show the limit of the same steps on other machines."""
        table(
            [
                {"machine": machine.name}
                | {name: f"{machine.bandwidth(n) / n:,.0f}" for name, n in self.expected.items()}
                for machine in machines().values()
            ],
            caption="The decode limit in tokens/s, from datasheet bandwidths. Real passes also "
            "spend time on launches and barriers, whose share is larger where the memory is faster",
        )


def _told(spent: float) -> str:
    """The time of a stage in words; leaving it out may have saved no measurable time."""
    return seconds(spent) if spent else "no measurable time"


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
