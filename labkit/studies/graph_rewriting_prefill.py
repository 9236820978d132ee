"""The second measurement of notebook 03: a prompt's last logits alone, against all its logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

from labkit.base.units import scaled, seconds
from labkit.limits.cost import Cost, pass_cost
from labkit.model.cache.table import Cache
from labkit.model.rows import Rows
from labkit.model.sampling import greedy
from labkit.quality.lossless import SameAnswer, same_answer
from labkit.report.told.finding import Finding
from labkit.report.told.plots import table
from labkit.studies.graph_rewriting_sentences import of_last_row
from labkit.studies.lab import Lab
from labkit.timing.compare import Comparison, Probe, Variant, compare
from labkit.timing.trace import Trace, record
from labkit.workload.prompts import Workload

ALL, LAST = "logits of all rows", "logits of the last row"


@dataclass
class Prefill:
    """Prompts of `tokens` tokens, read in two ways by the plain decoder.

    tie: the largest logit margin at which two different tokens count as equal.
    """

    lab: Lab
    tokens: int
    rounds: int
    tie: float
    probe: Probe

    @cached_property
    def cache(self) -> Cache:
        """One slot, for one prompt at a time."""
        return self.lab.decoder.new_cache(1, self.tokens)

    def first_token(self, number: int, all_logits: bool) -> Iterator[int]:
        """The token after a prompt, from a pass that makes all rows' logits or the last row's."""
        self.cache.truncate(0, 0)
        rows = Rows.prefill(self.lab.prompt(number, self.tokens), all_logits=all_logits)
        yield greedy(self.lab.decoder(rows, self.cache)[-1])

    @cached_property
    def same(self) -> SameAnswer:
        """The first token from the last row's logits, and from all; AssertionError if they "
        "differ."""
        expected, found = (list(self.first_token(1001, every)) for every in (True, False))
        prompt = self.lab.prompt(1001, self.tokens)
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
    def comparison(self) -> Comparison:
        """Both ways, interleaved."""
        runs: dict[str, Variant] = {
            ALL: partial(self._round, True), LAST: partial(self._round, False)
        }  # fmt: skip
        found = compare(runs, ALL, self.rounds, self.probe, "prefill")
        self.lab.keep_samples("prefill", found.to_dict())
        return found

    def _round(self, all_logits: bool, number: int) -> Trace:
        stream = partial(self.first_token, number, all_logits)
        return record(stream, self.tokens, self.lab.device)

    def against_limit(self) -> None:
        """Show both ways against their limits."""
        table(
            [
                self.lab.row(self.comparison, name, cost, "prefill", "variant")
                | {
                    "arithmetic": scaled(cost.flops, "FLOP"),
                    "limit": seconds(self.lab.least(cost)),
                }
                for name, cost in self.costs.items()
            ],
            caption=f"Prefill of {self.tokens} tokens",
        )

    def why(self) -> str:
        """The cost of the logits that generation does not use."""
        whole = self.comparison.median(ALL, "ttft")
        return of_last_row(
            LAST,
            self.tokens,
            flops=self.costs[ALL].flops - self.costs[LAST].flops,
            whole=self.costs[ALL].flops,
            total=whole,
            extra=whole - self.comparison.median(LAST, "ttft"),
            verdict=self.comparison.verdict(LAST, "ttft"),
        )

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
