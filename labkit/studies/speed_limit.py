"""The study of notebook 00: how fast could this machine run this model at all?

The machine is measured and the model's bytes and FLOPs are counted. Bytes over bandwidth, or FLOPs
over the matrix rate, is the limit. transformers' `generate` and the plain decoder are then timed,
and held against a bare read of the same bytes in the same rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from labkit.base.device import last_level_cache
from labkit.engine.generate import generate
from labkit.limits.cost import Cost, decode_cost, prefill_cost
from labkit.limits.roofline import Limit, critical_batch, limit
from labkit.model.reference import load_reference, reference_generate, reference_logits
from labkit.model.rows import Rows
from labkit.quality.lossless import SameAnswer, same_answer, tie_margin
from labkit.report.told import decoders
from labkit.report.told.finding import Finding
from labkit.report.told.notebook import live
from labkit.report.told.plots import number, say, table
from labkit.studies import memory_states, memory_states_told
from labkit.studies import speed_limit_calculator as calculator
from labkit.studies import speed_limit_figures as figures
from labkit.studies import speed_limit_ledger as ledger
from labkit.studies import speed_limit_parts as parts
from labkit.studies.lab import TIMES, Lab
from labkit.studies.operations import count_operations, matrices_only, operation_seconds
from labkit.timing.compare import Comparison
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
    memory_seconds: float = 24.0  # of the search for the states of the memory
    remeasure: bool = False  # measure the machine again even if it is known

    def __post_init__(self) -> None:
        self.lab = Lab.open(
            "00_speed_limit", "plain_decoder", self.model, self.device, self.dtype,
            prompt_tokens=self.prompt_tokens, new_tokens=self.new_tokens, rounds=self.rounds,
            remeasure=self.remeasure, parameters=vars(self),
        )  # fmt: skip
        config, dtype = self.lab.config, self.lab.dtype
        self.passes = ledger.passes(config, self.prompt_tokens, dtype)
        self.costs: dict[str, Cost] = {  # of the timed passes, by phase
            "decode": decode_cost(config, self.lab.middle, dtype=dtype),
            "prefill": prefill_cost(config, self.prompt_tokens, dtype=dtype),
        }

    def machine(self) -> None:
        """Show the measured bandwidth and matrix rates of this machine."""
        hardware = self.lab.hardware
        figures.machine(
            {size: (r.best, r.slowest) for size, r in hardware.bandwidth_points.items()},
            self.costs["decode"].weight_bytes,
            {name: (r.best, r.slowest) for name, r in hardware.matrix.items()},
            hardware.threads,
            f"{hardware.name}, measured {hardware.measured_at}",
        )
        table(
            ledger.thread_rows(hardware),
            caption="The machine by number of threads: the best spell, and the slowest",
        )

    @cached_property
    def states(self) -> memory_states.States:
        """Read rates of sets of bytes in several situations."""
        lab = self.lab
        sets = memory_states.sets_of(self.costs["decode"].weight_bytes, lab.device)
        found = memory_states.measure(sets, self.memory_seconds, lab.device, lab.hardware.threads)
        lab.keep_samples("memory_states", found.to_dict())
        return found

    def memory(self) -> None:
        """Show what makes the same read fast at one moment and slow at another."""
        memory_states_told.show_states(self.states, last_level_cache(self.lab.device))

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
        found = list(generate(decoder, prompt, count))
        return same_answer(decoder, prompt, expected, found, tie_margin(decoder.dtype))

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
                ledger.limit_row(name, each, lab.least(at.cost).slowest, at.tokens)
                for (name, each), at in zip(found.items(), self.passes.values(), strict=True)
            ],
            caption="The limit on this machine, by its best sustained rates and by its slowest",
        )
        name = f"decode at {self.prompt_tokens}"
        bandwidth = lab.hardware.bandwidth(self.passes[name].cost.read_bytes) / 1e9
        say(
            f"The decode limit of one stream is **{number(found[name].rate())} tokens/s** in "
            f"{lab.dtype}, set by {found[name].bound}. The best sustained bandwidth that this run "
            f"measured for its bytes is {bandwidth:.3g} GB/s. The machine changes with time, so "
            "the comparison below also reads the same bytes in every round. For a batch larger "
            "than about "
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
        """transformers, the plain decoder and its products alone on the same prompts, interleaved,
        each of the two engines held against what only reads or only multiplies."""
        lab, work = self.lab, matrices_only(self.lab.decoder)
        runs = {
            REFERENCE: self._transformers,
            PLAIN: lab.decoding(lab.decoder),
            parts.PRODUCTS: parts.repeated(work, self.new_tokens, lab.device),
        }
        costs = {
            (name, phase): cost for name in (REFERENCE, PLAIN) for phase, cost in self.costs.items()
        }
        found = lab.compare(runs, REFERENCE, self.rounds, costs)
        lab.keep_samples("comparison", found.to_dict())
        decoders.keep(lab.notebook, {decoders.plain(lab.dtype): PLAIN}, found)
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

    def against_limit(self) -> None:
        """Show both engines and phases against the bare work of the rounds, and the limit."""
        found, lab = self.comparison, self.lab
        told = f"{self.prompt_tokens} prompt tokens, {self.new_tokens} new tokens"
        for phase, cost in self.costs.items():
            names, time = (REFERENCE, found.control, PLAIN), TIMES[phase]
            least = lab.least(cost).standing(min(found.mean(name, time) for name in names))
            table(
                [
                    ledger.held_row(found, name, phase, lab.fraction(found, name, cost, time))
                    for name in names
                ],
                caption=f"{ledger.limit_caption(phase, least, found.bare[PLAIN, time].name)} "
                f"({told}, {found.rounds} rounds)",
            )
        decode, variants = self.costs["decode"], (REFERENCE, PLAIN)
        figures.roofline(
            lab.hardware.bandwidth(decode.read_bytes),
            lab.hardware.rate(lab.dtype),
            [self._point(name, phase) for phase in self.costs for name in variants],
            variants,
            ledger.bare_bandwidth(found, PLAIN, decode, self.predicted_bound),
        )
        say(ledger.shares(found, variants))

    @property
    def predicted_bound(self) -> str:
        """What sets the limit of the timed decode step: memory or compute."""
        return limit(self.costs["decode"], self.lab.hardware).bound

    def _point(self, name: str, phase: str) -> figures.Point:
        cost = self.costs[phase]
        achieved = cost.flops / self.comparison.mean(name, TIMES[phase])
        held = self.lab.least(cost).standing(cost.flops / achieved)
        most = cost.flops / held.seconds if held else None
        return figures.Point(name, phase, cost.intensity, achieved, most)

    @cached_property
    def operations(self) -> int:
        """How many torch operations the plain decoder dispatches for a token."""
        decoder, prompt = self.lab.decoder, self.lab.prompt(1000)
        cache = decoder.new_cache(1, len(prompt) + self.new_tokens)  # as in the timed answers
        decoder(Rows.prefill(prompt), cache)
        return count_operations(lambda: decoder(Rows.decode({0: (1, len(prompt))}), cache))

    def why(self) -> None:
        """Tell where the time of a token goes, from the rounds' own numbers."""
        steps = parts.steps(self.comparison, PLAIN)
        table(
            parts.rows(steps),
            caption="Where the time of a token of the plain decoder goes; every step was timed in "
            "the same rounds",
        )
        say(parts.sentence(steps, self.operations, operation_seconds(self.lab.decoder)))

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
    study.memory()
    study.bytes_and_flops()
    study.same_answer()
    study.predict()
    study.measure()
    study.against_limit()
    study.why()
    findings = study.findings()
    study.elsewhere()
    return findings
