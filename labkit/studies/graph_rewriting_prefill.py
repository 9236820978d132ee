"""The second measurement of notebook 03: a prompt's last logits alone, against all its logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice

import torch
from torch import Tensor

from labkit.base.units import scaled
from labkit.limits.cost import Cost, pass_cost
from labkit.model.cache.table import Cache
from labkit.model.rows import Rows
from labkit.model.sampling import greedy
from labkit.quality.lossless import SameAnswer, same_answer
from labkit.report.told.finding import Finding
from labkit.report.told.plots import table
from labkit.studies.graph_rewriting_sentences import of_last_row
from labkit.studies.lab import TIMES, Lab
from labkit.studies.predictions import EARLIER, LIMIT_NOTE, Prediction, limit_cells
from labkit.timing.compare import Comparison, Variant
from labkit.timing.trace import Trace, clock, record
from labkit.workload.prompts import Workload

ALL, LAST = "logits of all rows", "logits of the last row"
HEAD, ONE_ROW = "head of all rows alone", "head of one row alone"
_TEXTS = 6000  # prompts from this number on, before the comparison; it has others


@dataclass
class Prefill:
    """Prompts of `tokens` tokens, read in two ways by the plain decoder.

    check_tokens: how many tokens of the answers are compared. tie: the largest logit margin at
    which two different tokens count as equal.
    """

    lab: Lab
    tokens: int
    check_tokens: int
    rounds: int
    tie: float

    @cached_property
    def cache(self) -> Cache:
        """One slot, for one prompt at a time and its answer."""
        return self.lab.decoder.new_cache(1, self.tokens + self.check_tokens)

    def answer(self, ids: Sequence[int], all_logits: bool) -> Iterator[int]:
        """Tokens after a prompt. Its pass makes all rows' logits, or the last row's."""
        self.cache.truncate(0, 0)
        rows = Rows.prefill(ids, all_logits=all_logits)
        while True:
            yield (token := greedy(self.lab.decoder(rows, self.cache)[-1]))
            rows = Rows.decode({0: (token, self.cache.length(0))})

    @cached_property
    def same(self) -> SameAnswer:
        """The answers after both ways to read a prompt; AssertionError where they differ."""
        prompt = self.lab.prompt(1001, self.tokens)
        expected, found = (
            list(islice(self.answer(prompt, every), self.check_tokens)) for every in (True, False)
        )
        same = same_answer(self.lab.decoder, prompt, expected, found, self.tie)
        assert same.lossless, same
        return same

    @cached_property
    def costs(self) -> dict[str, Cost]:
        """The cost of a prefill in each way."""
        return {
            name: pass_cost(self.lab.config, [(0, self.tokens)], logits=count, dtype=self.lab.dtype)
            for name, count in ((ALL, self.tokens), (LAST, 1))
        }

    @cached_property
    def earlier(self) -> Comparison:
        """Other prompts with the last row's logits; in the same rounds, the head of all rows and of
        one row alone."""
        decoder = self.lab.decoder
        hidden = torch.randn(
            self.tokens, decoder.config.hidden_size, dtype=decoder.dtype, device=decoder.device
        )
        runs: dict[str, Variant] = {
            LAST: lambda number: self._round(False, _TEXTS + number),
            HEAD: partial(self._head, hidden),
            ONE_ROW: partial(self._head, hidden[-1:]),
        }
        found = self.lab.compare(runs, LAST, min(self.rounds, EARLIER), {}, label="earlier heads")
        self.lab.keep_samples("prefill-earlier", found.to_dict())
        return found

    def _head(self, hidden: Tensor, _: int) -> Trace:
        with torch.inference_mode():
            return clock(partial(self.lab.decoder.head, hidden), self.lab.device)

    @property
    def expected_speedup(self) -> float:
        """Predicted: the pass with all logits takes as much longer as its head does alone."""
        found = self.earlier
        last, whole, one = (found.mean(name, "ttft") for name in (LAST, HEAD, ONE_ROW))
        return (last + max(0.0, whole - one)) / last

    @cached_property
    def comparison(self) -> Comparison:
        """Both ways, interleaved."""
        runs: dict[str, Variant] = {
            ALL: partial(self._round, True), LAST: partial(self._round, False)
        }  # fmt: skip
        costs = {(name, "prefill"): cost for name, cost in self.costs.items()}
        found = self.lab.compare(runs, ALL, self.rounds, costs, label="prefill")
        self.lab.keep_samples("prefill", found.to_dict())
        return found

    def _round(self, all_logits: bool, number: int) -> Trace:
        ids = self.lab.prompt(number, self.tokens)

        def first() -> Iterator[int]:
            return islice(self.answer(ids, all_logits), 1)

        return record(first, self.tokens, self.lab.device)

    def against_limit(self) -> None:
        """Show both ways against their limits."""
        found, time = self.comparison, TIMES["prefill"]
        table(
            [
                self.lab.row(found, name, cost, "prefill")
                | limit_cells(self.lab.least(cost), found.mean(name, time), found.mean(ALL, time))
                | {"arithmetic": scaled(cost.flops, "FLOP")}
                for name, cost in self.costs.items()
            ],
            caption=f"Prefill of {self.tokens} tokens, {found.rounds} rounds; {LIMIT_NOTE}",
        )

    @property
    def prediction(self) -> Prediction:
        """The predicted speedup, held against the measured one."""
        return Prediction(LAST, self.expected_speedup, self.comparison.speedup(LAST, "ttft"))

    def why(self) -> str:
        """The cost of the logits that generation does not use."""
        flops = {name: cost.flops for name, cost in self.costs.items()}
        measured = self.comparison.speedup(LAST, "ttft")
        return of_last_row(LAST, self.tokens, flops[ALL] - flops[LAST], flops[ALL], measured)

    def finding(self) -> Finding:
        """The finding: the last row's logits against all."""
        return self.lab.finding(
            self.comparison,
            LAST,
            phase="prefill",
            cost=self.costs[LAST],
            quality=self.same.quality(),
            workload=Workload(self.tokens, 1).describe(),
        )
