"""What notebook 04 measures; quantization.py shows it.

The model is rounded by several methods, packed for every kernel that this machine has, judged on
text, and timed twice: in a few earlier rounds on other texts, from which forecasts are told, and in
the rounds that these are held against.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial

import torch

from labkit.engine.generate import generate
from labkit.limits.cost import Cost
from labkit.model.forward import Forward
from labkit.optimize.quantization import QuantizedDecoder, pack, quantize
from labkit.quality.lossless import SameAnswer, same_answer
from labkit.report.told import decoders
from labkit.studies import quantization_forecast as forecast
from labkit.studies.lab import Lab
from labkit.studies.quantization_quality import Quality
from labkit.studies.quantization_variants import (
    EIGHT,
    PLAIN,
    Plan,
    attempt,
    costs_of,
    plans,
    stored_formats,
)
from labkit.timing.compare import Comparison
from labkit.timing.statistics import FEWEST_ROUNDS
from labkit.timing.trace import Trace, record
from labkit.workload.texts import pieces


@dataclass
class Measured:
    """What is measured, when it is first asked for; the fields are the notebook's parameters."""

    model: str = ""
    device: str = "auto"
    dtype: str = "float32"
    prompt_tokens: int = 64
    new_tokens: int = 12
    check_tokens: int = 8  # greedy tokens compared between a packed decoder and its twin
    bits: int = 4
    group: int = 64  # inputs that share a scale
    # How to choose the integers; also hqq, symmetric.
    methods: list[str] = field(default_factory=lambda: ["rtn", "gptq"])
    # What runs them, where it can.
    engines: list[str] = field(default_factory=lambda: ["torch", "torchao", "fused"])
    calibration_tokens: int = 2048  # text that gptq is fitted to
    quality_tokens: int = 20480  # text that the methods are judged on
    other_tokens: int = 1024  # text that everything that runs is judged on
    piece_tokens: int = 512
    long_context: int = 1024  # tokens before the positions of a long text; 0: no long text
    questions: int = 20  # sums, and as many lookups, that what runs is asked; 0: none
    rounds: int = 5

    def __post_init__(self) -> None:
        self.lab = Lab.open(
            "04_quantization", "quantization", self.model, self.device, self.dtype,
            prompt_tokens=self.prompt_tokens, new_tokens=self.new_tokens, rounds=self.rounds,
            parameters=vars(self),
        )  # fmt: skip
        self.fitted = {method: f"{self.bits} bits, {method}" for method in self.methods}

    @cached_property
    def quantized(self) -> dict[str, QuantizedDecoder]:
        """The model rounded by every method, and to 8 bits with a scale for each row."""
        lab = self.lab
        text = pieces(
            lab.loaded.tokenizer, "calibration", self.calibration_tokens, self.piece_tokens
        )
        found = {
            name: quantize(lab.decoder, method, self.bits, self.group, text)
            for method, name in self.fitted.items()
        }
        return found | {EIGHT: quantize(lab.decoder, "symmetric", 8, None)}

    @cached_property
    def plans(self) -> dict[str, Plan]:
        """How each variant is made: what the engines run, and the 8-bit KV cache."""
        return plans(self.engines, self.lab.loaded, self.quantized, self.group)

    @cached_property
    def attempted(self) -> tuple[dict[str, Forward], dict[str, str]]:
        """The variants that run here, and the reason for each that does not."""
        return attempt(self.plans)

    @property
    def runs(self) -> dict[str, Forward]:
        """Every variant that is timed."""
        return self.attempted[0]

    @cached_property
    def same(self) -> dict[str, SameAnswer]:
        """Packed decoders against their twins, in float32; AssertionError where tokens differ."""
        found = {name: self._twins(name) for name in self.quantized if name in self.runs}
        for name, same in found.items():
            assert same.lossless, (name, same)
        return found

    def _twins(self, name: str) -> SameAnswer:
        """A packed decoder's tokens against those of its twin, which has unpacked matrices."""
        twin, prompt = self.quantized[name], self.lab.prompt(1000, self.check_tokens)
        packed = pack(twin, torch.float32)
        expected, found = (list(generate(d, prompt, self.check_tokens)) for d in (twin, packed))
        return same_answer(twin, prompt, expected, found)

    @cached_property
    def costs(self) -> dict[tuple[str, str], Cost]:
        """What a pass must do, by variant and phase: with its own bytes and its arithmetic."""
        lab = self.lab
        every: dict[str, tuple[Forward, str]] = {PLAIN: (lab.decoder, lab.dtype)}
        every |= {name: (made, self.plans[name].arithmetic) for name, made in self.runs.items()}
        return {
            (name, phase): cost
            for name, (made, dtype) in every.items()
            for phase, cost in costs_of(
                lab.config, made, dtype, self.prompt_tokens, lab.middle
            ).items()
        }

    @cached_property
    def stored(self) -> dict[str, float]:
        """The formats of the matrices in the model's file; {} where it is no GGUF file."""
        return stored_formats(self.lab.loaded.source)

    @cached_property
    def words(self) -> dict[str, str]:
        """The format of each variant's weights, in words."""
        stored = " and ".join(self.stored)
        plain = self.lab.dtype + (f", from the file's {stored}" if stored else "")
        return {PLAIN: plain} | {name: self.plans[name].words(m) for name, m in self.runs.items()}

    @property
    def timed(self) -> dict[str, Forward]:
        """The plain decoder and every variant."""
        return {PLAIN: self.lab.decoder} | self.runs

    @cached_property
    def earlier(self) -> Comparison:
        """Decoding on other texts, before anything is told."""
        lab, length, rounds = self.lab, self.prompt_tokens, max(FEWEST_ROUNDS, self.rounds // 2)
        prompts = pieces(lab.loaded.tokenizer, "calibration", (rounds + 1) * length, length)

        def on(made: Forward, number: int) -> Trace:
            stream = partial(generate, made, prompts[number], self.new_tokens)
            return record(stream, length, lab.device)

        runs = {name: partial(on, made) for name, made in self.timed.items()}
        costs = {key: cost for key, cost in self.costs.items() if key[1] == "decode"}
        found = lab.compare(runs, PLAIN, rounds, costs, label="earlier rounds")
        lab.keep_samples("earlier", found.to_dict())
        return found

    @cached_property
    def forecasts(self) -> list[forecast.Forecast]:
        """The share of its bare read that each variant will reach, told from earlier rounds."""
        return forecast.forecasts(
            self.earlier, [name for name in self.runs if self.plans[name].products_only]
        )

    @cached_property
    def quality(self) -> Quality:
        """Every variant's answers against the plain decoder's."""
        return Quality(
            self.lab, self.quantized, self.runs, self.fitted.get("rtn", ""), self.quality_tokens,
            self.other_tokens, self.piece_tokens, self.long_context, self.questions,
        )  # fmt: skip

    @cached_property
    def comparison(self) -> Comparison:
        """Every variant continues the same prompts, interleaved."""
        runs = {name: self.lab.decoding(made) for name, made in self.timed.items()}
        found = self.lab.compare(runs, PLAIN, self.rounds, self.costs)
        self.lab.keep_samples("speed", found.to_dict())
        names = {decoders.FUSED: "fused, as-is", decoders.FUSED_Q8: "fused, q8_0"}
        decoders.keep(self.lab.notebook, {decoders.plain(self.lab.dtype): PLAIN} | names, found)
        return found
