"""The study of notebook 02: how much time does a KV cache save?

Four variants continue the same prompts: no cache, a cache that grows by concatenation, a cache that
is allocated beforehand, and a sliding window that drops old tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
from torch import Tensor

from labkit.base.units import scaled, seconds
from labkit.engine.generate import generate
from labkit.engine.sequence import check_lengths
from labkit.errors import ParameterError
from labkit.limits.calculator import shapes
from labkit.limits.cost import Cost
from labkit.limits.hardware import BandwidthProbe
from labkit.model.cache.table import Cache
from labkit.model.cache.window import SlidingWindowCache
from labkit.model.rows import Rows
from labkit.optimize.kv_cache import fill, generate_without_cache
from labkit.quality.divergence import divergence
from labkit.quality.lossless import SameAnswer, same_answer
from labkit.report.told.finding import Finding
from labkit.report.told.plots import say, table
from labkit.studies import kv_cache_figures as figures
from labkit.studies.kv_cache_variants import (
    GROWING,
    NO_CACHE,
    STATIC,
    cost_of,
    makers,
    more_flops,
    outweighs,
    sliding,
    steps_at,
)
from labkit.studies.lab import Lab
from labkit.timing.compare import Comparison, Variant, compare
from labkit.timing.trace import Trace, record


@dataclass
class Study:
    """The experiment; the fields are the notebook's parameters."""

    model: str = ""
    device: str = "auto"
    dtype: str = "float32"
    prompt_tokens: int = 128
    new_tokens: int = 16
    check_tokens: int = 24  # greedy tokens compared between the variants
    contexts: list[int] = field(default_factory=lambda: [64, 128, 256, 512, 1024, 2048])
    curve_rounds: int = 5  # samples a context and variant in the curve
    window: int = 256
    quality_tokens: int = 768  # text on which the window's answers are judged
    rounds: int = 8

    def __post_init__(self) -> None:
        if not self.contexts or min(self.contexts) < 1:
            raise ParameterError(f"contexts must be some numbers from 1 on; got {self.contexts}.")
        if min(self.window, self.check_tokens) < 1 or self.quality_tokens < 2:
            given = f"window {self.window}, check_tokens {self.check_tokens}"
            given += f", quality_tokens {self.quality_tokens}"
            raise ParameterError(f"{given}: allowed are at least 1, 1 and 2.")
        self.lab = Lab.open(
            "02_kv_cache", "kv_cache", self.model, self.device, self.dtype,
            prompt_tokens=self.prompt_tokens, new_tokens=self.new_tokens, rounds=self.rounds,
        )  # fmt: skip
        longest = max(*self.contexts, self.prompt_tokens)
        check_lengths(self.lab.config, longest, max(self.new_tokens, self.check_tokens))
        self.windowed = sliding(self.window)
        self.kinds = [NO_CACHE, GROWING, STATIC, self.windowed]
        capacity = longest + max(self.new_tokens, self.check_tokens) + 16
        self.makers = makers(self.lab.decoder, capacity, self.window)

    def cost(self, kind: str, context: int) -> Cost:
        """The cost of one token after `context` with a variant, or with the control."""
        kind = NO_CACHE if kind not in self.kinds else kind
        return cost_of(self.lab.config, kind, context, self.lab.dtype, self.window)

    @cached_property
    def same(self) -> dict[str, SameAnswer]:
        """The tokens of the caches that keep everything, against those of no cache."""
        lab, count = self.lab, self.check_tokens
        prompt = lab.prompt(1000)
        expected = list(generate_without_cache(lab.decoder, prompt, count))
        return {
            kind: same_answer(
                lab.decoder, prompt, expected,
                list(generate(lab.decoder, prompt, count, cache=self.makers[kind]())),
            )
            for kind in (GROWING, STATIC)
        }  # fmt: skip

    @cached_property
    def forgetful(self) -> dict[str, Any]:
        """The answers of the window, teacher-forced on a text, against the full cache's."""
        lab = self.lab
        text = lab.prompt(2000, min(self.quality_tokens, lab.config.max_positions))
        narrow = SlidingWindowCache(lab.config, self.window, 4, 1, lab.decoder.dtype, lab.device)

        def logits(cache: Cache, ids: Sequence[int]) -> Tensor:
            return lab.decoder(Rows.prefill(ids, all_logits=True), cache)

        full = partial(logits, lab.decoder.new_cache(1, len(text)))
        return divergence([text], full, partial(logits, narrow)).quality()

    def same_answer(self) -> None:
        """Show how far each variant's answers differ; AssertionError where they must be equal."""
        for kind, found in self.same.items():
            say(f"**{kind}** against no cache: {found}.")
            assert found.lossless, found
        quality = self.forgetful
        say(
            f"**{self.windowed}** gives other answers once it drops tokens. On a text of "
            f"{quality['positions'] + 1:,} tokens it picks the full cache's top token at "
            f"{quality['top1_agreement']:.1%} of positions, and its perplexity is "
            f"{quality['perplexity_ratio']:.3f} times as high."
        )

    def predict(self) -> None:
        """Show the least time of a token along the context, before anything is timed."""
        least = {c: {kind: self.lab.least(self.cost(kind, c)) for kind in self.kinds}
                 for c in self.contexts}  # fmt: skip
        table(
            [
                {"context": context} | {kind: seconds(time) for kind, time in times.items()}
                for context, times in least.items()
            ],
            caption="The least time of one token after a context, on this machine",
        )
        last = least[self.contexts[-1]]
        say(
            f"At a context of {self.contexts[-1]:,}, the least time of a token without a cache is "
            f"**{last[NO_CACHE] / last[STATIC]:,.0f}x** that with a static cache, which is "
            f"{last[STATIC] / last[self.windowed]:.2f}x that with a window of {self.window}. The "
            "growing cache has the same limit as the static one: a decoder need not copy."
        )

    @cached_property
    def comparison(self) -> Comparison:
        """Every variant continues the same prompts, interleaved."""
        lab = self.lab
        runs: dict[str, Variant] = {NO_CACHE: self._without_cache}
        runs |= {kind: partial(self._with_cache, make) for kind, make in self.makers.items()}
        found = compare(runs, NO_CACHE, self.rounds, lab.probe(self.cost(STATIC, lab.middle)))
        lab.keep_samples("continuation", found.to_dict())
        return found

    def _without_cache(self, number: int) -> Trace:
        ids = self.lab.prompt(number)
        stream = partial(generate_without_cache, self.lab.decoder, ids, self.new_tokens)
        return record(stream, len(ids), self.lab.device)

    def _with_cache(self, make: Callable[[], Cache], number: int) -> Trace:
        ids, cache = self.lab.prompt(number), make()
        stream = partial(generate, self.lab.decoder, ids, self.new_tokens, cache=cache)
        return record(stream, len(ids), self.lab.device)

    @cached_property
    def curve(self) -> dict[int, Comparison]:
        """The time of a token at each context: a few interleaved samples of each variant."""
        found = {}
        for context in self.contexts:
            ids = self.lab.prompt(context, context + 4)
            probe = BandwidthProbe(2**27, device=self.lab.device)
            runs = steps_at(self.lab.decoder, self.makers, ids, context)
            found[context] = compare(runs, STATIC, self.curve_rounds, probe, f"context {context}")
        self.lab.keep_samples("curve", {str(c): each.to_dict() for c, each in found.items()})
        return found

    def measure(self) -> None:
        """Time everything: the continuation, then the curve."""
        say(f"{self.comparison.rounds} rounds of each variant, and {len(self.curve)} contexts.")

    @cached_property
    def held_bytes(self) -> dict[str, int]:
        """Bytes of each kind of cache that holds the prompt in the first of its two slots."""
        prompt = self.lab.prompt(1000)
        return {kind: fill(self.lab.decoder, make(), prompt).nbytes
                for kind, make in self.makers.items()}  # fmt: skip

    def against_limit(self) -> None:
        """Show the continuation against each variant's own limit, and the curve."""
        lab, found = self.lab, self.comparison
        table(
            [
                lab.row(found, name, self.cost(name, lab.middle))
                | {"cache": scaled(self.held_bytes[name], "B") if name in self.held_bytes else "–"}
                for name in found.traces
            ],
            caption=f"{self.new_tokens} tokens after {self.prompt_tokens}, {found.rounds} rounds; "
            "cache: its bytes, with two slots",
        )
        self._show_curve()
        self._show_bytes()

    def _show_curve(self) -> None:
        contexts, curve = self.contexts, self.curve
        measured = {kind: [curve[c].median(kind) for c in contexts] for kind in self.kinds}
        least = {
            kind: [
                self.lab.limit_of(self.cost(kind, c))(float(np.median(curve[c].bandwidth[kind])))
                for c in contexts
            ]
            for kind in self.kinds
        }
        without, static = measured[NO_CACHE], measured[STATIC]
        figures.along_context(
            contexts, measured, least, [kind for kind in self.kinds if kind != NO_CACHE],
            f"Without a cache a token takes {seconds(without[0])} at a context of {contexts[0]} "
            f"and {seconds(without[-1])} at {contexts[-1]}; there it takes "
            f"{seconds(static[-1])} with a static cache.",
        )  # fmt: skip

    def _show_bytes(self) -> None:
        kv = self.lab.config.kv_bytes_per_token(self.lab.decoder.dtype.itemsize)
        spans = range(0, self.contexts[-1] + 1, 64)
        one_slot = self.makers[STATIC]().nbytes / 2
        figures.bytes_along_context(
            spans,
            {
                f"{GROWING}: one slot": [n * kv for n in spans],
                f"{STATIC}: allocated, one slot": [one_slot for _ in spans],
                self.windowed: [min(n, self.window + 3) * kv for n in spans],
            },
            f"A growing cache takes {kv / 1e3:.3g} kB more for each token; a window stops growing.",
        )

    def why(self) -> None:
        """Tell where the time of a token goes, from the numbers."""
        longest, shortest = (self.curve[self.contexts[i]] for i in (-1, 0))
        context = self.contexts[-1]
        kv = self.lab.config.kv_bytes_per_token(self.lab.decoder.dtype.itemsize)
        extra = longest.median(GROWING) - longest.median(STATIC)
        copied, rate = 2 * context * kv, float(np.median(longest.bandwidth[GROWING]))
        say(
            f"At {context:,} tokens of context the growing cache takes {seconds(abs(extra))} "
            f"{'more' if extra > 0 else 'less'} a token than the static one. Copying its keys and "
            f"values reads and writes {scaled(copied, 'B')}. At the read bandwidth of these "
            f"rounds, this takes {seconds(copied / rate)}."
        )
        grown = longest.median(STATIC) - shortest.median(STATIC)
        say(
            f"From {self.contexts[0]} to {context:,} tokens of context, the time of a token with "
            f"the static cache changed by {seconds(grown)}. Reading the added keys and values "
            f"takes {seconds((context - self.contexts[0]) * kv / rate)} at that bandwidth. At the "
            f"shortest context a token takes {seconds(shortest.median(STATIC))}; for its parts see "
            "00_speed_limit."
        )

    def findings(self) -> list[Finding]:
        """Save what was found, and show it."""
        quality = {kind: found.quality() for kind, found in self.same.items()}
        quality[self.windowed] = self.forgetful | {"lossless": False}
        lab = self.lab
        return lab.save(
            [
                lab.finding(
                    self.comparison, kind, cost=self.cost(kind, lab.middle), quality=quality[kind]
                )
                for kind in self.makers
            ]
        )

    def elsewhere(self) -> None:
        """Show what would change with other models."""
        table(
            [
                {
                    "model": name,
                    "KV a token (16 bits)": scaled(shape.kv_bytes_per_token(2), "B"),
                    "context where KV bytes equal weight bytes": outweighs(shape),
                    "FLOPs without a cache / with, at 1,024": f"{more_flops(shape):,.0f}x",
                }
                for name, shape in shapes().items()
            ],
            caption="The context from which the cache is larger than the weights, both in 16 bits",
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
