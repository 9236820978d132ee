"""What every study needs: the model, the machine, prompts, limits and findings.

A study is a class whose fields are the parameters of its notebook, with the same defaults. Cached
properties measure, when they are first read. Methods show the results, one method a section of the
notebook. `run(...)` of the study's module calls them in the order of the notebook.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from labkit.base.units import seconds
from labkit.engine.generate import generate
from labkit.errors import ParameterError
from labkit.limits.cost import Cost
from labkit.limits.hardware import BandwidthProbe, Hardware, measure_hardware
from labkit.limits.roofline import limit
from labkit.model.config import ModelConfig
from labkit.model.decoder import Decoder
from labkit.model.forward import Forward
from labkit.model.load import LoadedModel, load
from labkit.report.told import notebook as record_of
from labkit.report.told.compared import compared
from labkit.report.told.finding import Finding
from labkit.timing.compare import Comparison
from labkit.timing.statistics import FEWEST_ROUNDS, interval
from labkit.timing.trace import Trace, record
from labkit.workload.prompts import Workload, prompt_ids

# The time in a trace that each phase's rate derives from.
TIMES = {"decode": "tpot", "prefill": "ttft", "end_to_end": "e2e_latency"}
LimitSeconds = Callable[[float], float]  # from bytes/s to the least seconds


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
    ) -> Lab:
        """Load a model and measure the machine, or read an earlier measurement of it.

        rounds: of the study's comparisons. Raises ParameterError, before anything is loaded, for
        numbers that no comparison can use; else LabkitError as `load` and `measure_hardware` do.
        """
        if min(prompt_tokens, new_tokens) < 1 or rounds < FEWEST_ROUNDS:
            raise ParameterError(
                f"{prompt_tokens} prompt tokens, {new_tokens} new tokens, {rounds} rounds: allowed "
                f"are at least 1, 1 and {FEWEST_ROUNDS}."
            )
        loaded = load(model, device, dtype)
        hardware = measure_hardware(loaded.decoder.device, remeasure=remeasure)
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

    def probe(self, cost: Cost) -> BandwidthProbe:
        """A probe of the memory over as many bytes as a pass reads."""
        return BandwidthProbe(int(cost.read_bytes), device=self.device)

    def least(self, cost: Cost) -> float:
        """The least seconds of a pass, by the measured hardware."""
        return limit(cost, self.hardware).seconds

    def limit_of(self, cost: Cost) -> LimitSeconds:
        """A function from a probed bandwidth (bytes/s) to the least seconds of a pass."""
        return lambda bandwidth: limit(cost, self.hardware, bandwidth).seconds

    def finding(
        self,
        comparison: Comparison,
        variant: str,
        *,
        phase: str = "decode",
        metric: str = "",
        cost: Cost | None = None,
        limit_seconds: LimitSeconds | None = None,
        limit_note: str | None = None,
        quality: Mapping[str, Any] | None = None,
        workload: Mapping[str, Any] | None = None,
        model: Mapping[str, Any] | None = None,
    ) -> Finding:
        """The finding of one variant of a comparison.

        cost: of the pass that gives the limit. Without it, give limit_seconds, or a limit_note that
        says why there is no limit. metric: by default the rate of the phase. workload: instead of
        the lab's own. model: added to the lab's own.
        """
        return compared(
            comparison,
            variant,
            notebook=self.notebook,
            technique=self.technique,
            phase=phase,
            metric=metric or f"{phase}_rate",
            limit_seconds=self.limit_of(cost) if cost else limit_seconds,
            limit_note=limit_note,
            quality=quality,
            workload=self.workload.describe() if workload is None else workload,
            model=self.loaded.describe() | dict(model or {}),
            hardware=self.hardware.describe(),
        )

    def row(
        self,
        comparison: Comparison,
        name: str,
        cost: Cost | None,
        phase: str = "decode",
        label: str = "variant",
    ) -> dict[str, object]:
        """A row of the table that compares variants with their limits."""
        time = TIMES[phase]
        row: dict[str, object] = {
            label: name,
            "time a token" if phase == "decode" else "time": seconds(comparison.median(name, time)),
            "speedup": str(comparison.speedup(name, time)),
            "verdict": comparison.verdict(name, time),
        }
        if cost is not None:
            row["of its limit"] = (
                f"{self.fraction(comparison, name, self.limit_of(cost), time):.0%}"
            )
        return row

    @staticmethod
    def fraction(
        comparison: Comparison, name: str, limit_seconds: LimitSeconds, time: str = "tpot"
    ) -> float:
        """The median over rounds of limit time over measured time."""
        return interval(comparison.fractions(name, limit_seconds, time)).value

    def keep_samples(self, name: str, data: Mapping[str, Any]) -> None:
        """Write raw samples into the run's traces folder."""
        record_of.save_samples(self.notebook, name, data)

    def save(self, findings: Sequence[Finding]) -> list[Finding]:
        """Write the findings into the run and show them; report one above its limit as a defect."""
        record_of.save_findings(self.notebook, findings)
        return list(findings)
