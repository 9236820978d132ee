"""The study of notebook 03: how much time does a better graph save?

Each rewrite of the graph alone, then stacked, then compiled: the operations of a token, its time
against the limit, and the matrix products timed alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from labkit.base.units import scaled, seconds
from labkit.engine.generate import generate
from labkit.engine.sequence import check_lengths
from labkit.limits.cost import Cost
from labkit.limits.datasheet import machines
from labkit.limits.hardware import BandwidthProbe
from labkit.model.rows import Rows
from labkit.optimize.graph_rewriting import CompilerError, capture_step, payback_tokens
from labkit.quality.lossless import SameAnswer, same_answer
from labkit.report.told.finding import Finding
from labkit.report.told.plots import say, table
from labkit.studies import graph_rewriting_sentences as sentences
from labkit.studies.graph_rewriting_figures import alone_and_stacked
from labkit.studies.graph_rewriting_prefill import ALL, LAST, Prefill
from labkit.studies.graph_rewriting_products import Products
from labkit.studies.graph_rewriting_rungs import (
    COMPILED,
    GRAPH,
    MERGED,
    PLAIN,
    REWRITES,
    STACK,
    Compiled,
    Rung,
    compiled,
    cost_of,
    eager,
    inner,
    operations_of,
    overheads,
    tie_margin,
)
from labkit.studies.lab import Lab
from labkit.studies.operations import count_operations, operation_seconds
from labkit.timing.compare import Comparison, Variant, again, compare
from labkit.timing.trace import Trace, record


@dataclass
class Study:
    """The experiment; the fields are the notebook's parameters."""

    model: str = ""
    device: str = "auto"
    dtype: str = "float32"
    prompt_tokens: int = 32
    new_tokens: int = 12
    check_tokens: int = 32  # greedy tokens compared with the plain decoder
    prefill_tokens: int = (
        128  # the prompt that is read with the logits of all its rows, or the last
    )
    compiled: bool = True  # torch.compile: most of a minute, and a C++ compiler on a CPU
    rounds: int = 8

    def __post_init__(self) -> None:
        self.lab = Lab.open(
            "03_graph_rewriting", "graph_rewriting", self.model, self.device, self.dtype,
            prompt_tokens=self.prompt_tokens, new_tokens=self.new_tokens, rounds=self.rounds,
        )  # fmt: skip
        most = max(self.new_tokens, self.check_tokens)
        check_lengths(self.lab.config, max(self.prompt_tokens, self.prefill_tokens), most)
        self.capacity = self.prompt_tokens + most
        # All rungs share one cache: a compiled step or a CUDA graph is made for one.
        self.cache = self.lab.decoder.new_cache(1, self.capacity)
        self.tie = tie_margin(self.lab.decoder.dtype)

    @cached_property
    def eager(self) -> dict[str, Rung]:
        """The rungs that torch runs operation by operation; the plain decoder first."""
        return eager(self.lab.decoder)

    @cached_property
    def built(self) -> Compiled | None:
        """The compiled step of all rewrites; None if switched off or not possible here."""
        if not self.compiled:
            return None
        try:
            return compiled(inner(self.eager[STACK[-1]]), self.capacity)
        except CompilerError as error:
            say(f"**The compiled step is missing from this page.** {error}")
            return None

    @cached_property
    def rungs(self) -> dict[str, Rung]:
        """Every rung that this machine runs."""
        found = dict(self.eager)
        if self.lab.device.type == "cuda":
            found[GRAPH] = capture_step(inner(self.eager[STACK[-1]]))
        if self.built:
            found[COMPILED] = self.built.rung
        return found

    def continued(self, name: str, ids: Sequence[int], count: int) -> Iterator[int]:
        """A rung's continuation of a prompt, in the shared cache."""
        self.cache.truncate(0, 0)
        return generate(self.rungs[name], ids, count, cache=self.cache)

    @cached_property
    def prefill(self) -> Prefill:
        """A prompt read with the logits of all its rows, and of the last."""
        return Prefill(self.lab, self.prefill_tokens, self.rounds, self.tie, self.probe)

    @cached_property
    def same(self) -> dict[str, SameAnswer]:
        """Every rung's tokens against the plain decoder's; AssertionError where they differ."""
        prompt, count = self.lab.prompt(1000), self.check_tokens
        expected = list(self.continued(PLAIN, prompt, count))
        streams = {name: list(self.continued(name, prompt, count)) for name in self.rungs}
        found = {
            name: same_answer(self.lab.decoder, prompt, expected, stream, self.tie)
            for name, stream in streams.items()
        }
        for name, same in found.items():
            assert same.lossless, (name, same)
        return found

    def same_answer(self) -> None:
        """Show how far the rungs' tokens agree; AssertionError where they differ."""
        worst = min(self.same.values(), key=lambda found: found.equal)
        say(
            f"{len(self.same) - 1} rungs were compared with the plain decoder, {self.check_tokens} "
            f"greedy tokens each. The rung that differs first: **{worst}**. The first token from "
            f"the {LAST}, compared with the {ALL}: {self.prefill.same}."
        )

    @cached_property
    def operations(self) -> dict[str, int]:
        """Operations of one token on each rung."""
        return {name: self._operations(name) for name in self.rungs}

    def _operations(self, name: str) -> int:
        if self.built and name == COMPILED:
            return operations_of(self.built)
        list(self.continued(name, self.lab.prompt(1000), 1))
        step = Rows.decode({0: (1, self.prompt_tokens)})
        return count_operations(lambda: self.rungs[name](step, self.cache))

    @cached_property
    def price(self) -> float:
        """Seconds of overhead of one operation: its time with next to nothing to do."""
        return operation_seconds(self.lab.decoder)

    @cached_property
    def costs(self) -> dict[str, Cost]:
        """The cost of one token in the middle of an answer, on each rung and for the control."""
        found = {name: cost_of(rung, self.lab.middle, self.capacity)
                 for name, rung in self.rungs.items()}  # fmt: skip
        return found | {again(PLAIN): found[PLAIN]}

    @cached_property
    def probe(self) -> BandwidthProbe:
        """A probe of the memory, over as many bytes as a token of the plain decoder reads."""
        return self.lab.probe(self.costs[PLAIN])

    @cached_property
    def fewer(self) -> dict[str, int]:
        """Operations that a rung removes from a token; negative where it adds some."""
        return {name: self.operations[PLAIN] - count for name, count in self.operations.items()}

    def predict(self) -> None:
        """Show each rung's operations, the time that removing them should save, and the limit."""
        table(
            [
                {
                    "rung": name,
                    "operations a token": self.operations[name],
                    "operations removed": self.fewer[name],
                    "estimated saving": sentences.saving(self.fewer[name] * self.price),
                    "bytes read": scaled(self.costs[name].read_bytes, "B"),
                    "limit": seconds(self.lab.least(self.costs[name])),
                }
                for name in self.rungs
            ],
            caption="Estimated saving: the operations removed, times the overhead of one, "
            f"{seconds(self.price)}",
        )
        least = self.lab.least(self.costs[PLAIN])
        say(sentences.estimate(self.operations[PLAIN], self.price, least))

    @cached_property
    def comparison(self) -> Comparison:
        """Every rung decodes the same prompts, interleaved."""
        runs: dict[str, Variant] = {name: partial(self._decode, name) for name in self.rungs}
        found = compare(runs, PLAIN, self.rounds, self.probe)
        self.lab.keep_samples("rungs", found.to_dict())
        return found

    def _decode(self, name: str, number: int) -> Trace:
        ids = self.lab.prompt(number)
        stream = partial(self.continued, name, ids, self.new_tokens)
        return record(stream, self.prompt_tokens, self.lab.device)

    @cached_property
    def products(self) -> Products:
        """The matrix products alone."""
        return Products(self.lab, self.eager, self.rounds)

    def measure(self) -> None:
        """Time everything: the rungs, the two ways to read a prompt, the products alone."""
        say(f"{self.comparison.rounds} rounds of the rungs.")
        say(f"{self.prefill.comparison.rounds} rounds of prefill with the {ALL} and the {LAST}.")
        say(f"{self.products.comparison.rounds} rounds of the matrix products alone.")

    def against_limit(self) -> None:
        """Show every rung, and both ways to read a prompt, against their limits."""
        lab, found = self.lab, self.comparison
        table(
            [lab.row(found, name, self.costs[name], label="rung") for name in found.traces],
            caption=f"{self.new_tokens} tokens after {self.prompt_tokens}, {found.rounds} rounds",
        )
        self.prefill.against_limit()
        stack = [PLAIN, MERGED, *STACK, *(name for name in (GRAPH, COMPILED) if name in self.rungs)]
        alone_and_stacked(
            {name: found.speedup(name) for name in REWRITES},
            {name: found.median(name) for name in stack},
            self._least_plain(),
        )

    def _least_plain(self) -> float:
        """The plain decoder's limit at the bandwidth of its rounds, seconds a token."""
        least = self.lab.limit_of(self.costs[PLAIN])
        return float(np.median([least(rate) for rate in self.comparison.bandwidth[PLAIN]]))

    def why(self) -> None:
        """Explain what each rewrite changed: the matrix products, or the other operations."""
        found, operations = self.comparison, self.operations
        table(
            [self.products.row(name, found.median(name), operations[name]) for name in self.eager],
            caption="Where the time of a token goes on each rung: matrix products, timed alone, "
            "and the rest",
        )
        for name in REWRITES:
            say(
                sentences.of_rewrite(
                    name, self.fewer[name], self.price, self.products.clause(name),
                    found.median(PLAIN) - found.median(name), found.verdict(name),
                )
            )  # fmt: skip
        token, products = found.median(PLAIN), self.products.seconds(PLAIN)
        say(sentences.of_plain(token, products, self._least_plain()))
        if self.built:
            say(self._compiling(self.built))
        say(self.prefill.why())

    def _compiling(self, built: Compiled) -> str:
        before, after = (self.comparison.median(name) for name in (PLAIN, COMPILED))
        sure = self.comparison.verdict(COMPILED) == "faster"
        tokens = payback_tokens(built.seconds, before, after) if sure else None
        return sentences.of_compiled(
            COMPILED, self.operations[COMPILED], built.kernels, self.operations[PLAIN],
            before - after, built.seconds, tokens,
        )  # fmt: skip

    def findings(self) -> list[Finding]:
        """Save what was found, and show it."""
        lab, quality = self.lab, {name: same.quality() for name, same in self.same.items()}
        found = [
            lab.finding(self.comparison, name, cost=self.costs[name], quality=quality[name])
            for name in self.rungs
            if name != PLAIN
        ]
        return lab.save([*found, self.prefill.finding()])

    def elsewhere(self) -> None:
        """Show on which machines and models removing operations would matter."""
        a_layer = self.operations[PLAIN] / self.lab.config.layers
        table(
            overheads({"this machine": self.lab.hardware, **machines()}, a_layer, self.price),
            caption="Overhead of a token's operations over its limit in bfloat16",
        )
        say(sentences.elsewhere(a_layer, self.price))


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
