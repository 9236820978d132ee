"""The study of notebook 00: how fast could this machine run this model at all?

The machine is measured and the model's bytes and FLOPs are counted. Bytes over bandwidth, or FLOPs
over the matrix rate, is the limit. transformers' `generate` and the plain decoder are then timed
and compared with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from labkit.base.units import seconds
from labkit.engine.generate import generate
from labkit.engine.sequence import check_lengths
from labkit.limits.cost import Cost, decode_cost, prefill_cost
from labkit.limits.roofline import Limit, critical_batch, limit
from labkit.model.reference import load_reference, reference_generate, reference_logits
from labkit.model.rows import Rows
from labkit.quality.lossless import SameAnswer, same_answer
from labkit.report.told.finding import Finding
from labkit.report.told.notebook import live
from labkit.report.told.plots import number, say, table
from labkit.studies import speed_limit_calculator as calculator
from labkit.studies import speed_limit_figures as figures
from labkit.studies import speed_limit_ledger as ledger
from labkit.studies.lab import TIMES, Lab
from labkit.studies.operations import count_operations, matrices_only, operation_seconds
from labkit.studies.pitfalls import samples
from labkit.timing.compare import Comparison, compare
from labkit.timing.trace import Trace, record_pushed

REFERENCE, PLAIN = "transformers generate", "plain decoder"


@dataclass
class Study:
    """The experiment; the fields are the notebook's parameters."""

    model: str = ""
    device: str = "auto"
    dtype: str = "float32"
    prompt_tokens: int = 128
    new_tokens: int = 32
    check_tokens: int = 128  # greedy tokens compared with transformers
    rounds: int = 10
    remeasure: bool = False  # measure the machine again even if it is known

    def __post_init__(self) -> None:
        self.lab = Lab.open(
            "00_speed_limit", "plain_decoder", self.model, self.device, self.dtype,
            prompt_tokens=self.prompt_tokens, new_tokens=self.new_tokens, rounds=self.rounds,
            remeasure=self.remeasure,
        )  # fmt: skip
        config, dtype = self.lab.config, self.lab.dtype
        check_lengths(config, self.prompt_tokens, max(self.new_tokens, self.check_tokens))
        self.passes = ledger.passes(config, self.prompt_tokens, dtype)
        self.costs: dict[str, Cost] = {  # of the timed passes, by phase
            "decode": decode_cost(config, self.lab.middle, dtype=dtype),
            "prefill": prefill_cost(config, self.prompt_tokens, dtype=dtype),
        }

    def machine(self) -> None:
        """Show the measured bandwidth and matrix rates of this machine."""
        hardware = self.lab.hardware
        points = {size: (r.best, r.median) for size, r in hardware.bandwidth_points.items()}
        figures.machine(
            points,
            self.costs["decode"].weight_bytes,
            {name: reading.best for name, reading in hardware.matrix.items()},
            hardware.threads,
            f"{hardware.name}, measured {hardware.measured_at}",
        )
        table(ledger.thread_rows(hardware), caption="The machine by number of threads")

    def bytes_and_flops(self) -> None:
        """Show what each pass must read, write and compute."""
        table(
            [ledger.cost_row(name, each.cost) for name, each in self.passes.items()],
            caption=f"{self.lab.loaded.name} in {self.lab.dtype}",
        )

    @cached_property
    def reference(self) -> Any:
        """transformers' own model."""
        return load_reference(self.lab.loaded)

    @cached_property
    def logit_gap(self) -> float:
        """The largest difference of any logit of a prompt, ours against transformers'."""
        decoder, prompt = self.lab.decoder, self.lab.prompt(1000)
        ours = decoder(Rows.prefill(prompt, all_logits=True), decoder.new_cache(1, len(prompt)))
        return float((ours - reference_logits(self.reference, prompt)).abs().max())

    @cached_property
    def same(self) -> SameAnswer:
        """The greedy tokens of the plain decoder against those of transformers."""
        decoder, prompt, count = self.lab.decoder, self.lab.prompt(1000), self.check_tokens
        expected: list[int] = []
        reference_generate(self.reference, prompt, count, expected.append)
        return same_answer(decoder, prompt, expected, list(generate(decoder, prompt, count)))

    def same_answer(self) -> None:
        """Show that the plain decoder gives transformers' answers; AssertionError where it does "
        "not."""
        say(
            f"Largest difference between two logits: **{self.logit_gap:.1g}**. "
            f"Greedy continuation: **{self.same}**."
        )
        assert self.same.lossless, self.same

    @property
    def predicted(self) -> dict[str, Limit]:
        """The limit of each pass, by the measured hardware."""
        return {name: limit(each.cost, self.lab.hardware) for name, each in self.passes.items()}

    def predict(self) -> None:
        """Show the limits, before anything is timed."""
        lab, found = self.lab, self.predicted
        table(
            [
                ledger.limit_row(name, each, self.passes[name].tokens)
                for name, each in found.items()
            ],
            caption="The limit on this machine",
        )
        name = f"decode at {self.prompt_tokens}"
        bandwidth = lab.hardware.bandwidth(self.passes[name].cost.read_bytes) / 1e9
        say(
            f"The decode limit of one stream is **{number(found[name].rate())} tokens/s** in "
            f"{lab.dtype}, at the best bandwidth measured beforehand ({bandwidth:.3g} GB/s). The "
            "bandwidth changes with time, so the comparison below probes it in every round. For a "
            "batch larger than about "
            f"**{critical_batch(lab.config, lab.hardware, lab.dtype):.2g}**, arithmetic sets the "
            "decode limit instead of memory (at an empty context)."
        )
        self._show_predicted()

    def _show_predicted(self) -> None:
        lab = self.lab
        last = lab.config.max_positions
        some = dict.fromkeys((self.prompt_tokens, last // 4, last - 1))
        batches, contexts = [2**k for k in range(8)], range(0, last, max(1, last // 64))
        figures.predicted(
            batches,
            ledger.rates_by_batch(lab.config, lab.hardware, lab.dtype, some, batches),
            contexts,
            ledger.rates_by_context(lab.config, lab.hardware, lab.dtype, contexts, (1, 4, 16)),
        )

    @cached_property
    def comparison(self) -> Comparison:
        """transformers and the plain decoder on the same prompts, interleaved."""
        lab = self.lab
        runs = {REFERENCE: self._transformers, PLAIN: lab.decoding(lab.decoder)}
        found = compare(runs, REFERENCE, self.rounds, lab.probe(self.costs["decode"]))
        lab.keep_samples("comparison", found.to_dict())
        return found

    def _transformers(self, number: int) -> Trace:
        ids = self.lab.prompt(number)
        return record_pushed(
            lambda push: reference_generate(self.reference, ids, self.new_tokens, push),
            len(ids),
            self.lab.device,
        )

    def measure(self) -> None:
        """Time both."""
        say(f"{self.comparison.rounds} rounds of each variant.")

    @cached_property
    def bandwidth(self) -> float:
        """bytes/s in the rounds of the plain decoder: the median of its probes."""
        return float(np.median(self.comparison.bandwidth[PLAIN]))

    def against_limit(self) -> None:
        """Show both variants and phases against the limit."""
        found = self.comparison
        table(
            [self._row(name, phase) for phase in self.costs for name in found.traces],
            caption=f"{self.prompt_tokens} prompt tokens, {self.new_tokens} new tokens, "
            f"{found.rounds} rounds",
        )
        variants = (REFERENCE, PLAIN)
        points = [
            figures.Point(
                name,
                phase,
                cost.intensity,
                cost.flops / found.median(name, TIMES[phase]),
                cost.flops / self.lab.limit_of(cost)(self.bandwidth),
            )
            for phase, cost in self.costs.items()
            for name in variants
        ]
        rate = self.lab.hardware.rate(self.lab.dtype)
        figures.roofline(self.bandwidth, rate, points, variants)

    def _row(self, name: str, phase: str) -> dict[str, object]:
        time, lab = TIMES[phase], self.lab
        fraction = lab.fraction(self.comparison, name, lab.limit_of(self.costs[phase]), time)
        return {
            "variant": name,
            "phase": phase,
            "median": seconds(self.comparison.median(name, time)),
            "speedup": str(self.comparison.speedup(name, time)),
            "verdict": self.comparison.verdict(name, time),
            "of the limit": f"{fraction:.0%}",
        }

    @cached_property
    def matrix_seconds(self) -> float:
        """Seconds to multiply every matrix once by one row, with nothing between."""
        taken = samples(matrices_only(self.lab.decoder), 15, self.lab.device)
        return float(np.median(taken[3:]))

    @cached_property
    def operations(self) -> int:
        """How many torch operations the plain decoder dispatches for a token."""
        decoder, prompt = self.lab.decoder, self.lab.prompt(1000)
        cache = decoder.new_cache(1, len(prompt) + 1)
        decoder(Rows.prefill(prompt), cache)
        return count_operations(lambda: decoder(Rows.decode({0: (1, len(prompt))}), cache))

    @cached_property
    def parts(self) -> dict[str, float]:
        """Where the seconds of a decoded token go, found by leaving parts out."""
        least = self.lab.limit_of(self.costs["decode"])(self.bandwidth)
        token = self.comparison.median(PLAIN, TIMES["decode"])
        return ledger.parts_of_token(token, self.matrix_seconds, least)

    def why(self) -> None:
        """Tell where the time of a token goes, from the numbers."""
        parts, only = self.parts, self.matrix_seconds
        table(
            ledger.part_rows(parts),
            caption="Where the time of a token of the plain decoder goes",
        )
        smallest = operation_seconds(self.lab.decoder)
        say(
            f"A token takes {seconds(sum(parts.values()))}; its limit is "
            f"{seconds(parts[ledger.LIMIT])}. The matrix products of a token, timed alone, take "
            f"{seconds(only)}, so they reach {parts[ledger.LIMIT] / only:.0%} of the limit. The "
            f"time of everything else is {ledger.measurable(parts[ledger.REST])}. A token "
            f"dispatches {self.operations} torch operations. A very small operation, the sum of "
            f"two rows, takes {seconds(smallest)}; {self.operations} of them take "
            f"{seconds(self.operations * smallest)}."
        )

    def findings(self) -> list[Finding]:
        """Save what was found, and show it."""
        quality = self.same.quality()
        return self.lab.save(
            [
                self.lab.finding(self.comparison, PLAIN, phase=phase, cost=cost, quality=quality)
                for phase, cost in self.costs.items()
            ]
        )

    def elsewhere(self) -> None:
        """Show the decode limit of well-known models on this machine and others."""
        calculator.show_limits(self.lab.hardware)

    def sliders(self) -> None:
        """Show the calculator with sliders in a live session; nothing in a run."""
        if live():
            calculator.show_sliders(self.lab.hardware)


def run(**parameters: Any) -> list[Finding]:
    """The whole study, section after section; parameters: fields of Study."""
    study = Study(**parameters)
    study.machine()
    study.bytes_and_flops()
    study.same_answer()
    study.predict()
    study.measure()
    study.against_limit()
    study.why()
    findings = study.findings()
    study.elsewhere()
    return findings
