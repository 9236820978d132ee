"""The third measurement of notebook 03: matrix products alone, and the rest of a token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

from labkit.base.units import seconds
from labkit.studies.graph_rewriting_rungs import MERGED, PLAIN, Rung, inner, matrices
from labkit.studies.graph_rewriting_sentences import rest
from labkit.studies.lab import Lab
from labkit.studies.operations import matrices_only
from labkit.timing.compare import Comparison, Variant, compare
from labkit.timing.trace import Trace, clock


@dataclass
class Products:
    """The products of the plain decoder, and the merged ones.

    Every rung that torch runs operation by operation has the products of one of the two.
    """

    lab: Lab
    rungs: Mapping[str, Rung]
    rounds: int

    @cached_property
    def comparison(self) -> Comparison:
        """Both, interleaved."""
        runs: dict[str, Variant] = {
            name: partial(self._round, matrices_only(inner(self.rungs[name])))
            for name in (PLAIN, MERGED)
        }
        found = compare(runs, PLAIN, self.rounds, label="products alone")
        self.lab.keep_samples("products", found.to_dict())
        return found

    def _round(self, work: Callable[[], None], _: int) -> Trace:
        return clock(work, self.lab.device)

    def seconds(self, name: str) -> float:
        """Seconds of a rung's products, for one token."""
        merged = matrices(self.rungs[name]) == matrices(self.rungs[MERGED])
        return self.comparison.median(MERGED if merged else PLAIN, "e2e_latency")

    def row(self, name: str, token: float, operations: int) -> dict[str, object]:
        """A rung in the table of where its time goes. token: its measured seconds."""
        products = self.seconds(name)
        return {
            "rung": name,
            "time a token": seconds(token),
            "matrix products": matrices(self.rungs[name]),
            "products, timed alone": seconds(products),
            "the rest": rest(token - products),
            "operations": operations,
            "rest, an operation": rest((token - products) / operations),
        }

    def clause(self, name: str) -> str:
        """The clause about a rewrite's matrix products."""
        if name != MERGED:
            return "its matrix products are those of the plain decoder"
        ratio = self.comparison.speedup(MERGED, "e2e_latency")
        return f"the speedup of its matrix products, timed alone, is {ratio}"
