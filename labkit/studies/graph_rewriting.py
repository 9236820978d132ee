"""The study of notebook 03: how much time does a better graph save?

Each rewrite of the graph alone, then stacked, then compiled: the operations of a token, its time
against the limit, and the matrix products timed alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from labkit.base.device import kind
from labkit.base.units import scaled, seconds
from labkit.engine.generate import generate
from labkit.limits.cost import Cost
from labkit.limits.datasheet import machines
from labkit.model.rows import Rows
from labkit.optimize.graph_rewriting import CompilerError, capture_step, payback_tokens
from labkit.quality.lossless import SameAnswer, same_answer, tie_margin
from labkit.report.told import decoders
from labkit.report.told.finding import Finding
from labkit.report.told.plots import say, table
from labkit.report.told.words import times
from labkit.studies import graph_rewriting_sentences as sentences
from labkit.studies.graph_rewriting_earlier import PRODUCTS, Earlier
from labkit.studies.graph_rewriting_figures import alone_and_stacked
from labkit.studies.graph_rewriting_prefill import ALL, LAST, Prefill
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
)
from labkit.studies.lab import Lab
from labkit.studies.operations import count_operations, operation_seconds
from labkit.studies.predictions import EARLIER, EARLIER_DASH, LIMIT_NOTE, limit_cells, limit_told
from labkit.timing.compare import Comparison, Variant, again
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
    prefill_tokens: int = 128  # the prompt that is read with all its logits, or the last row's
    compiled: bool = True  # torch.compile: most of a minute, and a C++ compiler on a CPU
    rounds: int = 8

    def __post_init__(self) -> None:
        self.lab = Lab.open(
            "03_graph_rewriting", "graph_rewriting", self.model, self.device, self.dtype,
            prompt_tokens=self.prompt_tokens, new_tokens=self.new_tokens, rounds=self.rounds,
            parameters=vars(self),
        )  # fmt: skip
        most = max(self.new_tokens, self.check_tokens)
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
        if kind(self.lab.device) == "cuda":
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
        return Prefill(self.lab, self.prefill_tokens, self.check_tokens, self.rounds, self.tie)

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
        others = {name: same for name, same in self.same.items() if name != PLAIN}
        answers = f"answer after a prompt read with the {LAST}, against the {ALL}"
        say(f"{sentences.of_answers(others)} The {answers}: {self.prefill.same}.")

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
    def fewer(self) -> dict[str, int]:
        """Operations that a rung removes from a token; negative where it adds some."""
        return {name: self.operations[PLAIN] - count for name, count in self.operations.items()}

    @cached_property
    def earlier(self) -> Earlier:
        """The plain decoder on other prompts, and its products and the merged ones alone."""
        decode, rounds = partial(self._decode, PLAIN), min(self.rounds, EARLIER)
        return Earlier(self.lab, self.eager, rounds, decode, self.costs, self.operations)

    def predict(self) -> None:
        """Show each rung's operations, its limit, and its predicted time and speedup."""
        earlier = self.earlier
        products, part = earlier.comparison.mean(PRODUCTS), earlier.part
        share, others = earlier.comparison.share(PRODUCTS), earlier.others(PLAIN)
        say(sentences.of_overhead(products, part, share, others, earlier.overhead))
        say(sentences.of_smallest(self.price, self.operations[PLAIN], earlier.overhead))
        table(
            [
                {
                    "rung": name,
                    "operations a token": self.operations[name],
                    "operations removed": self.fewer[name],
                    "bytes read": scaled(self.costs[name].read_bytes, "B"),
                    "limit": limit_told(earlier.limit(name)),
                    **self._predicted(name),
                }
                for name in self.rungs
            ],
            caption="Predicted time: the rung's products alone, its other operations at the "
            "average of the plain decoder's, and the bytes that it reads beyond it. Limit: "
            f"{EARLIER_DASH}",
        )
        say(sentences.of_logits(LAST, self.prefill_tokens, self.prefill.expected_speedup))

    def _predicted(self, name: str) -> dict[str, object]:
        time, speedup = self.earlier.expected(name), self.earlier.expected_speedup(name)
        if time is None or speedup is None or name == PLAIN:
            return {"predicted time": "–", "predicted speedup": "–"}
        return {"predicted time": seconds(time), "predicted speedup": times(speedup)}

    @cached_property
    def comparison(self) -> Comparison:
        """Every rung decodes the same prompts, interleaved."""
        runs: dict[str, Variant] = {name: partial(self._decode, name) for name in self.rungs}
        costs = {(name, "decode"): self.costs[name] for name in self.rungs}
        found = self.lab.compare(runs, PLAIN, self.rounds, costs)
        self.lab.keep_samples("rungs", found.to_dict())
        decoders.keep(self.lab.notebook, {decoders.plain(self.lab.dtype): PLAIN}, found)
        return found

    def _decode(self, name: str, number: int) -> Trace:
        ids = self.lab.prompt(number)
        stream = partial(self.continued, name, ids, self.new_tokens)
        return record(stream, self.prompt_tokens, self.lab.device)

    def measure(self) -> None:
        """Time the rungs, then the two ways to read a prompt."""
        say(f"{self.comparison.rounds} rounds of the rungs.")
        for name, reason in self.comparison.failed.items():
            say(f"**{name}** is missing from this page. {reason}")
        say(f"{self.prefill.comparison.rounds} rounds of prefill with the {ALL} and the {LAST}.")

    def against_limit(self) -> None:
        """Show every rung, and both ways to read a prompt, against their limits."""
        lab, found = self.lab, self.comparison
        table(
            [
                lab.row(found, name, self.costs[name], label="rung")
                | limit_cells(lab.least(self.costs[name]), found.mean(name), found.mean(PLAIN))
                for name in (*found.variants, found.control)
            ],
            caption=f"{self.new_tokens} tokens after {self.prompt_tokens}, {found.rounds} rounds; "
            f"{LIMIT_NOTE}",
        )
        self.prefill.against_limit()
        order = (PLAIN, MERGED, *STACK, GRAPH, COMPILED)
        stack = {name: found.mean(name) for name in order if name in found.variants}
        alone_and_stacked(
            {name: found.speedup(name) for name in REWRITES if name in found.variants},
            stack,
            lab.least(self.costs[PLAIN]).standing(min(stack.values())),
        )

    def why(self) -> None:
        """Tell how the predictions did, and what each rewrite changed."""
        found, merging = self.comparison, self.earlier.merging
        self.earlier.hold(found, self.prefill.prediction)
        for name in REWRITES:
            if name in found.variants:
                own = merging if name == MERGED else None
                say(sentences.of_rewrite(name, self.fewer[name], own, found.speedup(name)))
        if self.built and COMPILED in found.variants:
            say(self._compiling(self.built))
        say(self.prefill.why())

    def _compiling(self, built: Compiled) -> str:
        found, paid = self.comparison, None
        if found.speedup(COMPILED).low > 1:
            paid = payback_tokens(built.seconds, found.mean(PLAIN), found.mean(COMPILED))
        pieces, plain = self.operations[COMPILED], self.operations[PLAIN]
        kernels, compiling = built.kernels, built.seconds
        return sentences.of_compiled(COMPILED, pieces, kernels, plain, compiling, paid)

    def findings(self) -> list[Finding]:
        """Save what was found, and show it."""
        lab, quality = self.lab, {name: same.quality() for name, same in self.same.items()}
        found = [
            lab.finding(self.comparison, name, cost=self.costs[name], quality=quality[name])
            for name in self.comparison.variants
            if name != PLAIN
        ]
        return lab.save([*found, self.prefill.finding()])

    def elsewhere(self) -> None:
        """Show on which machines and models removing operations would matter."""
        each, count = self.earlier.each(self.price)
        a_layer = count / self.lab.config.layers
        table(
            overheads({"this machine": self.lab.hardware, **machines()}, a_layer, each),
            caption="Overhead of a token's operations over its limit in bfloat16",
        )
        say(sentences.elsewhere(a_layer, self.price, self.earlier.overhead))


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
