"""What every study needs: the model, the machine, prompts, limits and findings.

A study is a class whose fields are the parameters of its notebook, with the same defaults. Cached
properties measure, when they are first read. Methods show the results, one method a section of the
notebook. `run(...)` of the study's module calls them in the order of the notebook.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import metadata
from typing import Any

import torch

from labkit.engine.generate import generate
from labkit.errors import ParameterError
from labkit.limits.cost import Cost
from labkit.limits.hardware import Hardware
from labkit.limits.measure import fastest_products, measure_hardware
from labkit.limits.roofline import limit
from labkit.limits.work import Work
from labkit.model.config import ModelConfig
from labkit.model.decoder import Decoder
from labkit.model.forward import Forward
from labkit.model.load import LoadedModel, load
from labkit.report.told import busy
from labkit.report.told import notebook as record_of
from labkit.report.told.compared import Least, compared, decided, told_value
from labkit.report.told.finding import Finding
from labkit.report.told.plots import say
from labkit.report.told.turns import MAIN, told_lost
from labkit.report.told.words import effect
from labkit.studies.allowed import check, model_of
from labkit.timing.compare import Comparison, Variant
from labkit.timing.held import Need, compare_held, need
from labkit.timing.statistics import FEWEST_ROUNDS, Ratio
from labkit.timing.trace import Trace, record
from labkit.workload.prompts import Workload, prompt_ids
from labkit.workload.texts import lengths

# The time in a trace that each phase's rate derives from.
TIMES = {"decode": "tpot", "prefill": "ttft", "end_to_end": "e2e_latency"}


def ours() -> dict[str, str]:
    """What a finding records of our own engine."""
    return {"name": "labkit", "version": metadata.version("labkit"), "torch": torch.__version__}


@dataclass(frozen=True)
class Lab:
    """One notebook's model, machine and workload, and how it makes and saves findings.

    notebook, technique: the names that its findings carry.
    """

    notebook: str
    technique: str
    loaded: LoadedModel
    hardware: Hardware
    workload: Workload
    _products: dict[str, Work] = field(default_factory=dict, repr=False, compare=False)
    _compared: dict[str, Comparison] = field(default_factory=dict, repr=False, compare=False)
    _apart: set[str] = field(default_factory=set, repr=False, compare=False)

    @staticmethod
    def open(
        notebook: str,
        technique: str,
        model: str = "",
        device: str = "auto",
        dtype: str = "float32",
        *,
        prompt_tokens: int,
        new_tokens: int,
        rounds: int,
        remeasure: bool = False,
        parameters: Mapping[str, Any] | None = None,
    ) -> Lab:
        """Load a model and measure the machine, or read an earlier measurement of it.

        rounds: of the study's comparisons. parameters: all that its notebook has, by name. Raises
        ParameterError for values that it cannot use: before anything is loaded, or before anything
        is measured where they do not fit the model. Else LabkitError as `load` and
        `measure_hardware` do.
        """
        given = dict(parameters or {})
        if given:
            check(notebook, given)
        if prompt_tokens < 1 or new_tokens < 2 or rounds < FEWEST_ROUNDS:
            raise ParameterError(
                f"prompt_tokens {prompt_tokens}, new_tokens {new_tokens}, rounds {rounds}: allowed "
                f"are at least 1, 2 (a TPOT needs two tokens) and {FEWEST_ROUNDS}."
            )
        loaded = load(model, device, dtype)
        if given:
            text = partial(lengths, loaded.tokenizer)
            check(notebook, given, model_of(asdict(loaded.config), text))
        hardware = measure_hardware(
            loaded.decoder.device, remeasure=remeasure, keep=record_of.run_folder()
        )
        busy.tell_machine(hardware)
        return Lab(notebook, technique, loaded, hardware, Workload(prompt_tokens, new_tokens))

    @property
    def decoder(self) -> Decoder:
        """The plain decoder."""
        return self.loaded.decoder

    @property
    def config(self) -> ModelConfig:
        """The shape of the model."""
        return self.loaded.config

    @property
    def device(self) -> torch.device:
        """Where the decoder computes."""
        return self.decoder.device

    @property
    def dtype(self) -> str:
        """Of the weights: float32, bfloat16 or float16."""
        return str(self.decoder.dtype).removeprefix("torch.")

    @property
    def middle(self) -> int:
        """The context in the middle of an answer: what one token reads on average."""
        return self.workload.prompt_tokens + self.workload.new_tokens // 2

    def prompt(self, number: int, tokens: int | None = None) -> list[int]:
        """Token ids of prompt `number`, of `tokens` tokens; by default the workload's prompt "
        "length."""
        return prompt_ids(self.loaded.tokenizer, tokens or self.workload.prompt_tokens, number)

    def decoding(self, forward: Forward) -> Callable[[int], Trace]:
        """A variant for `compare`: decode the workload's new tokens after the prompt of a round."""

        def run(number: int) -> Trace:
            ids = self.prompt(number)
            new_tokens = self.workload.new_tokens
            return record(lambda: generate(forward, ids, new_tokens), len(ids), self.device)

        return run

    def products(self, dtype: str) -> Work:
        """The fastest products of a dtype on this device, and nothing else; chosen once."""
        if dtype not in self._products:
            self._products[dtype] = fastest_products(dtype, self.device, self.hardware.threads)
        return self._products[dtype]

    def least(self, cost: Cost, tokens: float = 1.0) -> Least:
        """The least seconds of a pass by the run's best sustained rates, and by its slowest.

        tokens: of the output that a pass gives; with several, the seconds of one.
        """
        hardware = self.hardware
        bandwidth, rate = (
            hardware.slowest_bandwidth(cost.read_bytes),
            hardware.slowest_rate(cost.dtype),
        )
        slow = max(cost.read_bytes / bandwidth, cost.flops / rate) if bandwidth and rate else None
        return Least(limit(cost, hardware).seconds / tokens, slow and slow / tokens)

    def need(self, cost: Cost) -> Need:
        """What a pass is held against: its bytes where memory sets its limit, else its FLOPs."""
        return need(cost, self.hardware, self.products)

    def compare(
        self,
        variants: Mapping[str, Variant],
        baseline: str,
        rounds: int,
        costs: Mapping[tuple[str, str], Cost],
        **options: Any,
    ) -> Comparison:
        """Compare variants, each held against the bare read or the bare products of its cost.

        costs: by (variant, phase), of the pass that gives the phase's time. options: of `compare`.
        Raises ImpossibleRate where a variant was faster than any such device can be.
        """
        timed = {(name, TIMES[phase]): cost for (name, phase), cost in costs.items()}
        found = compare_held(
            variants, baseline, rounds, timed, self.hardware, self.products, **options
        )
        return self.noted(found, options.get("label", MAIN))

    def noted(self, found: Comparison, label: str, apart: bool = False) -> Comparison:
        """The same comparison; `save` will tell what its turns lost to other work.

        label: of its rounds. apart: whether its variants ran in processes of their own.
        """
        self._compared[label] = found
        if apart:
            self._apart.add(label)
        return found

    def finding(
        self,
        comparison: Comparison,
        variant: str,
        *,
        phase: str = "decode",
        metric: str = "",
        cost: Cost | None = None,
        tokens: float = 1.0,
        limit_note: str | None = None,
        quality: Mapping[str, Any] | None = None,
        weights: str = "",
        workload: Mapping[str, Any] | None = None,
        model: Mapping[str, Any] | None = None,
        engine: Mapping[str, Any] | None = None,
    ) -> Finding:
        """The finding of one variant of a comparison.

        cost: of the pass that gives the limit; without it, limit_note says why there is no limit.
        tokens: that such a pass gives. metric: by default the rate of the phase. weights: their
        format, by default the dtype. workload: instead of the lab's own. model: added to the lab's
        own. engine: by default ours.
        """
        return compared(
            comparison,
            variant,
            notebook=self.notebook,
            technique=self.technique,
            phase=phase,
            metric=metric or f"{phase}_rate",
            least=self.least(cost, tokens) if cost else None,
            limit_note=limit_note,
            bytes_read=cost.read_bytes if cost and phase == "decode" else None,
            weights=weights or self.dtype,
            quality=quality,
            workload=self.workload.describe() if workload is None else workload,
            model=self.loaded.describe() | dict(model or {}),
            hardware=self.hardware.describe(),
            engine=ours() if engine is None else engine,
        )

    def row(
        self,
        comparison: Comparison,
        name: str,
        cost: Cost | None,
        phase: str = "decode",
        label: str = "variant",
    ) -> dict[str, object]:
        """A row of the table that compares variants with their limits. It has no verdict: verdicts
        are corrected for the whole notebook, and stand in the table of findings."""
        time = TIMES[phase]
        share, ratio = comparison.share(name, time), comparison.speedup(name, time)
        row: dict[str, object] = {
            label: name,
            "time a token" if phase == "decode" else "time": told_value(comparison, name, time),
            "speedup": str(ratio),
            "could have seen": effect(ratio.smallest_effect),
        }
        if name == comparison.baseline:  # it is compared with nothing
            row |= {"speedup": "–", "could have seen": "–"}
        if cost is not None:
            row["of the bare read"] = "–" if share is None else told_share(share)
            row["of its limit"] = told_fraction(self.fraction(comparison, name, cost, time))
        return row

    def fraction(
        self, comparison: Comparison, name: str, cost: Cost, time: str = "tpot"
    ) -> float | None:
        """Limit time over measured time; None where the limit was beaten, and so is none."""
        return self.least(cost).fraction(comparison.mean(name, time))

    def keep_samples(self, name: str, data: Mapping[str, Any]) -> None:
        """Write raw samples into the run's traces folder."""
        record_of.save_samples(self.notebook, name, data)

    def save(self, findings: Sequence[Finding]) -> list[Finding]:
        """Correct the verdicts of all findings together, write them into the run and show them, and
        tell what the turns of all comparisons lost to other work."""
        found = decided(findings)
        record_of.save_findings(self.notebook, found)
        busy.keep(self.notebook, self._compared.values())
        if lost := told_lost(self._compared, self._apart):
            say(lost)
        return found


def told_share(share: Ratio) -> str:
    """The share of the bare read with its interval: 82 % [79, 85]."""
    return f"{share.value:.0%} [{100 * share.low:.0f}, {100 * share.high:.0f}]"


def told_fraction(fraction: float | None) -> str:
    """A fraction of the limit; a dash where the limit was beaten."""
    return "–" if fraction is None else f"{fraction:.0%}"
