"""The study of notebook 04: how much faster are fewer bits, and how far do they change answers?

The same model is rounded to 8 and to 4 bits by several methods, judged against the unquantized
model on text, and timed on every kernel that this machine has for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from labkit.base.units import scaled, seconds
from labkit.engine.generate import generate
from labkit.engine.sequence import check_lengths
from labkit.limits.cost import Cost, decode_cost
from labkit.model.forward import Forward
from labkit.optimize.quantization import QuantizedDecoder, WithQuantizedCache, pack, quantize
from labkit.quality.lossless import SameAnswer, same_answer
from labkit.report.told.finding import Finding
from labkit.report.told.plots import say, table
from labkit.studies import quantization_sentences as sentences
from labkit.studies.lab import Lab
from labkit.studies.quantization_figures import Point, quality_against_speed
from labkit.studies.quantization_quality import Quality
from labkit.studies.quantization_variants import (
    CACHE,
    EIGHT,
    PLAIN,
    attempt,
    cache_shares,
    check_engines,
    cost_of,
    kv_bytes,
    makers,
    weight_bytes,
)
from labkit.timing.compare import Comparison, Variant, compare
from labkit.workload.texts import pieces

OTHER_CONTEXT = 8192  # tokens, of the table of other models


@dataclass
class Study:
    """The experiment; the fields are the notebook's parameters."""

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
    other_tokens: int = 1024  # text that engines, 8 bits and the cache are judged on
    piece_tokens: int = 512
    rounds: int = 5

    def __post_init__(self) -> None:
        check_engines(self.engines)
        self.lab = Lab.open(
            "04_quantization", "quantization", self.model, self.device, self.dtype,
            prompt_tokens=self.prompt_tokens, new_tokens=self.new_tokens, rounds=self.rounds,
        )  # fmt: skip
        check_lengths(
            self.lab.config,
            max(self.prompt_tokens, self.piece_tokens),
            max(self.new_tokens, self.check_tokens),
        )
        self.fitted = {method: f"{self.bits} bits, {method}" for method in self.methods}
        self.plain_bytes = decode_cost(self.lab.config, 0, dtype=self.lab.dtype).weight_bytes

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
    def attempted(self) -> tuple[dict[str, Forward], dict[str, str]]:
        """The variants that the engines run here, and the reason for each that they do not."""
        path = self.lab.loaded.source or self.lab.loaded.directory
        return attempt(makers(self.engines, self.lab.decoder, self.quantized, path, self.group))

    @cached_property
    def runs(self) -> dict[str, Forward]:
        """Every variant that is timed: what the engines run, and the 8-bit KV cache."""
        return self.attempted[0] | {CACHE: WithQuantizedCache(self.lab.decoder)}

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

    def same_answer(self) -> None:
        """Show how far packed decoders agree with their twins, and what does not run here."""
        for name, found in self.same.items():
            say(f"**{name}**, packed integers in float32 against the twin: {found}.")
        for name, reason in self.attempted[1].items():
            say(f"**{name}** does not run here: {reason}")

    @cached_property
    def weights(self) -> dict[str, float]:
        """Bytes of weights that a token reads, by variant, whether it runs here or not."""
        every: dict[str, Forward] = {PLAIN: self.lab.decoder} | self.quantized | self.runs
        return {name: weight_bytes(made, self.plain_bytes) for name, made in every.items()}

    @cached_property
    def kv(self) -> dict[str, float]:
        """Bytes of a token in the cache, by variant."""
        return {name: kv_bytes(run) for name, run in self._timed.items()}

    @property
    def _timed(self) -> dict[str, Forward]:
        return {PLAIN: self.lab.decoder} | self.runs

    def cost(self, name: str) -> Cost:
        """The cost of one token in the middle of an answer."""
        lab = self.lab
        return cost_of(lab.config, self.weights[name], self.kv[name], lab.middle, lab.dtype)

    def predict(self) -> None:
        """Show the bytes that one token must read, and its least time."""
        least = {name: self.lab.least(self.cost(name)) for name in self._timed}
        bits = 8 * self.lab.decoder.dtype.itemsize
        table(
            [
                {
                    "variant": name,
                    "weights": scaled(self.weights[name], "B"),
                    "bits a weight": bits * self.weights[name] / self.plain_bytes,
                    "KV a token": scaled(self.kv[name], "B"),
                    "least time a token": seconds(time),
                    "speedup of the limit": f"{least[PLAIN] / time:.2f}x",
                }
                for name, time in least.items()
            ],
            caption=f"The bytes that one token must read after {self.lab.middle}, and its least "
            "time",
        )
        say(sentences.LIMIT_AGAINST_LIMIT)

    @cached_property
    def quality(self) -> Quality:
        """Every variant's answers against the unquantized model's."""
        fitted = {name: self.quantized[name] for name in self.fitted.values()}
        return Quality(
            self.lab, fitted, self.runs, self.fitted.get("rtn", ""),
            self.quality_tokens, self.other_tokens, self.piece_tokens,
        )  # fmt: skip

    @cached_property
    def comparison(self) -> Comparison:
        """Every variant decodes the same prompts, interleaved."""
        runs: dict[str, Variant] = {name: self.lab.decoding(f) for name, f in self._timed.items()}
        probes = {name: self.lab.probe(self.cost(name)) for name in runs}
        found = compare(runs, PLAIN, self.rounds, probes)
        self.lab.keep_samples("speed", found.to_dict())
        return found

    def measure(self) -> None:
        """Judge the answers, then time every variant."""
        most = max(told["positions"] for told in self.quality.told.values())
        say(
            f"{len(self.quality.told)} variants were judged, on up to {most:,} positions. "
            f"{len(self.comparison.traces)} variants, the control among them, were timed in "
            f"{self.comparison.rounds} rounds."
        )

    def _fraction(self, name: str) -> float:
        return self.lab.fraction(self.comparison, name, self.lab.limit_of(self.cost(name)))

    def _speed(self, name: str) -> dict[str, object]:
        if name not in self.comparison.traces:
            return {}
        rate = 1 / self.comparison.median(name)
        return {"decode tok/s": rate, "of its limit": f"{self._fraction(name):.0%}"}

    def against_limit(self) -> None:
        """Show answers, speed and bytes of every variant, in a table and a figure."""
        first = {"variant": PLAIN, "weights": scaled(self.plain_bytes, "B")} | self._speed(PLAIN)
        rows = [self._row(name, told) for name, told in self.quality.told.items()]
        table(
            [first, *rows],
            caption="Answers compared with the unquantized model's; speed of "
            f"{self.new_tokens} tokens after {self.prompt_tokens}",
        )
        points = {
            name: Point(
                rate=1 / self.comparison.median(name),
                kl=self.quality.told[name]["kl_mean"],
                share=self.weights[name] / self.plain_bytes,
            )
            for name in self._shown
        }
        quality_against_speed(points, 1 / self.comparison.median(PLAIN))

    def _row(self, name: str, told: dict[str, Any]) -> dict[str, object]:
        return {
            "variant": name,
            "weights": scaled(self.weights[name], "B"),
            "KL, mean": told["kl_mean"],
            "KL, 99th percentile": told["kl_p99"],
            "same top token": f"{told['top1_agreement']:.1%}",
            "perplexity": f"x{told['perplexity_ratio']:.4f}",
            "positions": told["positions"],
        } | self._speed(name)

    @property
    def _shown(self) -> list[str]:
        """Variants that were judged and timed."""
        return [name for name in self.quality.told if name in self.comparison.traces]

    def why(self) -> None:
        """Show how much error each method has, and how much time lies above each limit."""
        for sentence in self.quality.sentences(self.group):
            say(sentence)
        found, plain = self.comparison, self.cost(PLAIN).read_bytes
        for name in self._shown:
            part, speedup = self.cost(name).read_bytes / plain, found.speedup(name).value
            fraction, token = self._fraction(name), found.median(name)
            say(sentences.beyond_limit(name, part, speedup, fraction, token))
        say(sentences.REST)

    def findings(self) -> list[Finding]:
        """Save what was found, and show it."""
        assert all(found.lossless for found in self.same.values())
        return self.lab.save(
            [
                self.lab.finding(
                    self.comparison, name, cost=self.cost(name), quality=self.quality.told[name]
                )
                for name in self.runs
                if name in self.comparison.traces
            ]
        )

    def elsewhere(self) -> None:
        """Show the KV cache's share of the bytes that other models read."""
        table(
            cache_shares(OTHER_CONTEXT),
            caption="The KV cache's share of the bytes that a token reads, at a context of "
            f"{OTHER_CONTEXT:,}, by bits a weight and bits of the cache",
        )
        ratio = self.weights[PLAIN] / (self.lab.middle * self.kv[PLAIN])
        say(sentences.weights_or_cache(ratio))


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
