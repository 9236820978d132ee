"""The study of notebook 02: how much time does a KV cache save?

Four variants continue the same prompts: no cache, a cache that grows by concatenation, a cache that
is allocated beforehand, and a sliding window that drops old tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from labkit.base.units import scaled
from labkit.engine.generate import generate
from labkit.limits.cost import Cost, positions_read
from labkit.model.cache.table import Cache
from labkit.optimize.kv_cache import fill, generate_without_cache
from labkit.quality.lossless import SameAnswer, same_answer, tie_margin
from labkit.report.told import decoders
from labkit.report.told.compared import rebased
from labkit.report.told.finding import Finding
from labkit.report.told.plots import say, table
from labkit.studies import kv_cache_figures as figures
from labkit.studies import kv_cache_sentences as sentences
from labkit.studies.kv_cache_curve import Curve
from labkit.studies.kv_cache_earlier import Earlier
from labkit.studies.kv_cache_variants import (
    GROWING,
    NO_CACHE,
    SINKS,
    STATIC,
    cost_of,
    makers,
    slides_from,
    sliding,
    timed_contexts,
    with_other_models,
)
from labkit.studies.kv_cache_window import forgetful
from labkit.studies.lab import Lab
from labkit.studies.predictions import EARLIER, EARLIER_DASH, LIMIT_NOTE, limit_cells, limit_told
from labkit.timing.compare import Comparison, Variant
from labkit.timing.statistics import interval
from labkit.timing.trace import Trace, record


@dataclass
class Study:
    """The experiment; the fields are the notebook's parameters."""

    model: str = ""
    device: str = "auto"
    dtype: str = "float32"
    prompt_tokens: int = 128
    new_tokens: int = 16
    check_tokens: int = 32  # greedy tokens compared between the variants
    contexts: list[int] = field(default_factory=lambda: [64, 128, 256, 512, 1024, 2048])
    longest_without: int = 512  # the longest of them after which no cache is timed
    curve_rounds: int = 5  # rounds after each context
    window: int = 64  # at least 4 below prompt_tokens, else some timed steps drop nothing
    quality_tokens: int = 768  # text on which the window's answers are judged
    rounds: int = 8

    def __post_init__(self) -> None:
        self.lab = Lab.open(
            "02_kv_cache", "kv_cache", self.model, self.device, self.dtype,
            prompt_tokens=self.prompt_tokens, new_tokens=self.new_tokens, rounds=self.rounds,
            parameters=vars(self),
        )  # fmt: skip
        most = max(self.new_tokens, self.check_tokens)
        longest = max(*self.contexts, self.prompt_tokens)
        self.windowed = sliding(self.window)
        self.kinds = [NO_CACHE, GROWING, STATIC, self.windowed]
        self.makers = makers(self.lab.decoder, longest + most + 16, self.window)
        self.timed = timed_contexts(self.prompt_tokens, self.new_tokens)
        self.middle = (self.timed[0] + self.timed[-1]) // 2

    def cost(self, kind: str, context: int) -> Cost:
        """The cost of one token after `context` with a variant, or with the control."""
        kind = NO_CACHE if kind not in self.kinds else kind
        return cost_of(self.lab.config, kind, context, self.lab.dtype, self.window)

    @property
    def slid(self) -> int:
        """How many of the timed steps of an answer drop a token with the window."""
        return sum(context >= slides_from(self.window) for context in self.timed)

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
                tie_margin(lab.decoder.dtype),
            )
            for kind in (GROWING, STATIC)
        }  # fmt: skip

    @cached_property
    def forgetful(self) -> dict[str, Any] | None:
        """What the window costs in answers; None where the text is too short for it."""
        text = self.lab.prompt(2000, min(self.quality_tokens, self.lab.config.max_positions))
        return forgetful(self.lab.decoder, text, self.window)

    def same_answer(self) -> None:
        """Show how far each variant's answers differ; AssertionError where they must be equal."""
        for kind, found in self.same.items():
            say(f"**{kind}** against no cache: {found}.")
            assert found.lossless, found
        say(sentences.of_window(self.windowed, self.forgetful))

    @cached_property
    def earlier(self) -> Earlier:
        """Steps on another text, after a quarter and three quarters as many tokens."""
        shorter, rounds = max(1, self.prompt_tokens // 4), min(self.rounds, EARLIER)
        context = max(shorter + 1, 3 * self.prompt_tokens // 4)
        return Earlier(self.lab, self.makers, shorter, context, rounds, self.cost)

    def predict(self) -> None:
        """Show the limit of a token, and its predicted time, before any of them is compared."""
        known = self.earlier
        least = {c: {kind: known.limit(kind, c) for kind in self.kinds} for c in self.contexts}
        table(
            [
                {"context": context} | {kind: limit_told(one) for kind, one in limits.items()}
                for context, limits in least.items()
            ],
            caption="The limit of the time of one token after a context, by the best and by the "
            f"slowest sustained rate of this run; {EARLIER_DASH}",
        )
        say(
            sentences.of_earlier(known.shorter, known.context, known.comparison.rounds, self.middle)
        )
        known.show(dict.fromkeys(self.kinds, self.middle), self.ends)

    @property
    def ends(self) -> dict[str, int]:
        """The longest context of the curve for which a time of each variant is predicted."""
        found = dict.fromkeys(self.makers, max(self.contexts))
        without = [c for c in self.curve.without if c <= self.earlier.reach]
        return found | ({NO_CACHE: without[-1]} if without else {})

    @cached_property
    def comparison(self) -> Comparison:
        """Every variant continues the same prompts, interleaved."""
        runs: dict[str, Variant] = {NO_CACHE: self._without_cache}
        runs |= {kind: partial(self._with_cache, make) for kind, make in self.makers.items()}
        costs = {(kind, "decode"): self.cost(kind, self.middle) for kind in self.kinds}
        found = self.lab.compare(runs, NO_CACHE, self.rounds, costs)
        self.lab.keep_samples("continuation", found.to_dict())
        decoders.keep(self.lab.notebook, {decoders.plain(self.lab.dtype): STATIC}, found)
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
    def curve(self) -> Curve:
        """The time of a token after each context."""
        return Curve(
            self.lab, self.makers, self.contexts, self.longest_without, self.curve_rounds, self.cost
        )

    def measure(self) -> None:
        """Time everything: the continuation, then the curve."""
        say(f"{self.comparison.rounds} rounds of each variant; then {len(self.curve.comparisons)} "
            f"contexts, {self.curve_rounds} rounds each.")  # fmt: skip
        for name, reason in self.comparison.failed.items():
            say(f"**{name}** is missing from this page. {reason}")

    @cached_property
    def held_bytes(self) -> dict[str, int]:
        """Bytes of each kind of cache, with the prompt in the first of its two slots.

        The last token of the prompt is a pass of its own, before which a window drops tokens.
        """
        prompt = self.lab.prompt(1000)
        chunk = max(1, len(prompt) - 1)
        return {kind: fill(self.lab.decoder, make(), prompt, chunk).nbytes
                for kind, make in self.makers.items()}  # fmt: skip

    def against_limit(self) -> None:
        """Show the continuation against each variant's own limit, and the curve."""
        found = self.comparison
        table(
            [self._row(name) for name in (*found.variants, found.control)],
            caption=f"{self.new_tokens} tokens after {self.prompt_tokens}, {found.rounds} rounds; "
            f"{LIMIT_NOTE}; cache: its bytes, with two slots",
        )
        say(sentences.of_sliding(self.windowed, self.slid, len(self.timed)))
        self.curve.show()
        self._show_bytes()

    def _row(self, name: str) -> dict[str, object]:
        lab, found, cost = self.lab, self.comparison, self.cost(name, self.middle)
        limits = limit_cells(lab.least(cost), found.mean(name), found.mean(NO_CACHE))
        held = self.held_bytes.get(name)
        return lab.row(found, name, cost) | limits | {"cache": scaled(held, "B") if held else "–"}

    def _show_bytes(self) -> None:
        kv = self.lab.config.kv_bytes_per_token(self.lab.decoder.dtype.itemsize)
        spans = range(0, max(self.contexts) + 1, 64)
        one_slot = self.makers[STATIC]().nbytes / 2
        figures.bytes_along_context(
            spans,
            {
                f"{GROWING}: one slot": [n * kv for n in spans],
                f"{STATIC}: allocated, one slot": [one_slot for _ in spans],
                self.windowed: [min(n, self.window + SINKS) * kv for n in spans],
            },
            f"A growing cache takes {kv / 1e3:.3g} kB more for each token; a window stops growing.",
        )

    def why(self) -> None:
        """Tell how the predictions did, and where the time of a token goes along the context."""
        curve = self.curve.comparisons
        found, ends = self.comparison, self.ends.items()
        here = [(kind, self.middle, found) for kind in found.variants]
        there = [(kind, c, curve[c]) for kind, c in ends if kind in curve[c].variants]
        self.earlier.hold([*here, *there])
        bandwidth = self.lab.hardware.bandwidth(self.cost(STATIC, self.curve.longest).read_bytes)
        kv = self.lab.config.kv_bytes_per_token(self.lab.decoder.dtype.itemsize)
        first, last = min(self.contexts), self.curve.longest
        far = curve[last]
        more = positions_read(self.lab.config, last) - positions_read(self.lab.config, first)
        copied, added = 2 * last * kv, more * kv
        say(sentences.of_growing(last, far.speedup(GROWING), copied, copied / bandwidth))
        if last >= slides_from(self.window):
            left = self.cost(STATIC, last).read_bytes - self.cost(self.windowed, last).read_bytes
            say(sentences.of_narrow(self.windowed, last, far.speedup(self.windowed), left))
        if last > first:
            low, high = (interval(curve[context].values(STATIC)) for context in (first, last))
            say(sentences.of_context(first, last, low, high, added, added / bandwidth))

    def findings(self) -> list[Finding]:
        """Save what was found, and show it: each variant against no cache, then against the static
        cache. A window that never dropped a token has no finding."""
        quality = {kind: found.quality() for kind, found in self.same.items()}
        quality[self.windowed] = self.forgetful or {"lossless": False}
        kept = [kind for kind in self.comparison.variants if kind in quality]
        if not self.slid and self.windowed in kept:
            kept.remove(self.windowed)
        found = [
            self.lab.finding(
                self.comparison, kind, cost=self.cost(kind, self.middle), quality=quality[kind]
            )
            for kind in kept
        ]
        others = [one for one in found if one.variant != STATIC and STATIC in kept]
        return self.lab.save([*found, *(rebased(one, self.comparison, STATIC) for one in others)])

    def elsewhere(self) -> None:
        """Show what would change with other models."""
        table(
            with_other_models(),
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
