"""What notebook 03 predicts, from the plain decoder and matrix products alone, timed earlier."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

from torch import nn

from labkit.limits.cost import Cost
from labkit.report.told.compared import Least
from labkit.report.told.plots import say, table
from labkit.studies.graph_rewriting_rungs import MERGED, PLAIN, Rung, inner, matrices
from labkit.studies.lab import Lab
from labkit.studies.operations import count_operations, matrices_only
from labkit.studies.predictions import Prediction, no_change, not_below, of_moment, score
from labkit.timing.compare import Comparison, Variant
from labkit.timing.statistics import Ratio, interval, paired_ratio
from labkit.timing.trace import Trace, record

PRODUCTS, MERGED_PRODUCTS = "products alone", "merged products alone"
_TEXTS = 5000  # prompts from this number on; the comparison of the rungs has others


@dataclass(frozen=True)
class Earlier:
    """The plain decoder on other prompts, and in the same rounds its products and the merged ones.

    Every rung that torch runs operation by operation has the products of one of the two. decode:
    the plain decoder's answer to a prompt, by the prompt's number. costs: of a token on each rung.
    operations: of a token on each rung.
    """

    lab: Lab
    rungs: Mapping[str, Rung]
    rounds: int
    decode: Callable[[int], Trace]
    costs: Mapping[str, Cost]
    operations: Mapping[str, int]

    @cached_property
    def comparison(self) -> Comparison:
        """All three, interleaved, each held against the bare read of its bytes."""
        runs: dict[str, Variant] = {PLAIN: self._plain}
        costs = {(PLAIN, "decode"): self.costs[PLAIN]}
        for name, rung in ((PRODUCTS, PLAIN), (MERGED_PRODUCTS, MERGED)):
            runs[name] = partial(self._multiply, matrices_only(inner(self.rungs[rung])))
            costs[name, "decode"] = self._products_cost(rung)
        found = self.lab.compare(runs, PLAIN, self.rounds, costs, label="earlier rounds")
        self.lab.keep_samples("earlier", found.to_dict())
        return found

    def _plain(self, number: int) -> Trace:
        return self.decode(_TEXTS + number)

    def _multiply(self, work: Callable[[], None], _: int) -> Trace:
        """The products of as many tokens as an answer has."""

        def steps() -> Iterator[int]:
            for _ in range(self.lab.workload.new_tokens):
                work()
                yield 0

        return record(steps, 0, self.lab.device)

    def _products_cost(self, name: str) -> Cost:
        """The matrices of a rung and nothing else."""
        modules = inner(self.rungs[name]).modules()
        nbytes = sum(module.weight.nbytes for module in modules if isinstance(module, nn.Linear))
        return replace(
            self.costs[name], weight_bytes=nbytes, kv_read_bytes=0.0, attention_flops=0.0
        )

    def products_of(self, name: str) -> str:
        """Which of the two products a rung has."""
        merged = matrices(self.rungs[name]) == matrices(self.rungs[MERGED])
        return MERGED_PRODUCTS if merged else PRODUCTS

    @property
    def part(self) -> Ratio:
        """The time of the products alone over that of a token of the plain decoder."""
        found = self.comparison
        return paired_ratio(found.values(PRODUCTS), found.values(PLAIN))

    @property
    def merging(self) -> Ratio:
        """The speedup of the merged products over the plain decoder's."""
        found = self.comparison
        return paired_ratio(found.values(PRODUCTS), found.values(MERGED_PRODUCTS))

    def others(self, name: str) -> int:
        """Operations of a token that are not part of its matrix products."""
        return self.operations[name] - self._dispatched[self.products_of(name)]

    @cached_property
    def _dispatched(self) -> dict[str, int]:
        pairs = ((PRODUCTS, PLAIN), (MERGED_PRODUCTS, MERGED))
        return {
            name: count_operations(matrices_only(inner(self.rungs[rung]))) for name, rung in pairs
        }

    @property
    def overhead(self) -> float | None:
        """Seconds of an operation within a token, on average; products are not counted.

        None where the products alone take as long as the token, within the interval.
        """
        if self.part.high >= 1:
            return None
        rest = self.comparison.mean(PLAIN) - self.comparison.mean(PRODUCTS)
        return rest / self.others(PLAIN)

    def each(self, price: float) -> tuple[float, int]:
        """Seconds of an operation, and how many a token of the plain decoder has at this time each:
        the average of those that are no products; where it is not measurable, `price` of all."""
        if self.overhead is None:
            return price, self.operations[PLAIN]
        return self.overhead, self.others(PLAIN)

    def limit(self, name: str) -> Least | None:
        """The limit of a token; None where the plain decoder was already faster than its own, for
        all rungs have theirs by the same rates."""
        plain = self.lab.least(self.costs[PLAIN])
        held = plain.standing(self.comparison.mean(PLAIN))
        return held and self.lab.least(self.costs[name])

    def expected(self, name: str) -> float | None:
        """Predicted seconds of a token: the rung's products alone, its other operations, and the
        bytes that it reads beyond the plain decoder's at the run's best bandwidth; never below its
        limit.

        None for a rung that torch does not run operation by operation, or without an overhead.
        """
        if name not in self.rungs or self.overhead is None:
            return None
        plain, read = self.costs[PLAIN].read_bytes, self.costs[name].read_bytes
        more = (read - plain) / self.lab.hardware.bandwidth(plain)
        products = self.comparison.mean(self.products_of(name))
        expected = products + self.others(name) * self.overhead + more
        return not_below(expected, self.limit(name))

    def expected_speedup(self, name: str) -> float | None:
        """The predicted speedup over the plain decoder."""
        expected = self.expected(name)
        return self.comparison.mean(PLAIN) / expected if expected else None

    def hold(self, found: Comparison, prefill: Prediction) -> None:
        """Show how the predictions did: of the rungs in their comparison, and of the prefill."""
        taken, gains, rows = [], [], []
        for name in found.variants:
            time, speedup = self.expected(name), self.expected_speedup(name)
            if name == PLAIN or time is None or speedup is None:
                continue
            taken.append(Prediction(name, time, interval(found.values(name))))
            gains.append(Prediction(name, speedup, found.speedup(name)))
            rows.append({"variant": name} | taken[-1].time_cells() | gains[-1].speedup_cells())
        rows.append({"variant": prefill.name} | prefill.speedup_cells())
        table(rows, caption="The predictions, held against what was measured after them")
        gains.append(prefill)
        say(f"{score('speedups', gains)} {no_change([one.measured for one in gains])}")
        if taken:
            mean = self.comparison.mean(PLAIN)
            moment = interval([value / mean for value in found.values(PLAIN)])
            say(f"{score('times', taken)} {of_moment(PLAIN, moment)}")
