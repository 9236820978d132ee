"""The second measurement of notebook 02: the time of a token along the context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from labkit.base.units import seconds
from labkit.limits.cost import Cost
from labkit.studies import kv_cache_figures as figures
from labkit.studies.kv_cache_variants import NO_CACHE, STATIC, Makers, steps_at
from labkit.studies.lab import Lab
from labkit.timing.compare import Comparison
from labkit.timing.statistics import Ratio

_STEPS = 4  # tokens that a round decodes after each context


@dataclass(frozen=True)
class Curve:
    """A few interleaved rounds of every variant after each context.

    longest_without: the longest context after which no cache is timed; it computes all rows anew.
    cost: of one token after a context, by variant.
    """

    lab: Lab
    makers: Makers
    contexts: Sequence[int]
    longest_without: int
    rounds: int
    cost: Callable[[str, int], Cost]

    @cached_property
    def comparisons(self) -> dict[int, Comparison]:
        """By context; the static cache is the baseline. Caches are held against the bare read."""
        found = {context: self._compare(context) for context in self.contexts}
        self.lab.keep_samples("curve", {str(c): each.to_dict() for c, each in found.items()})
        return found

    def _compare(self, context: int) -> Comparison:
        lab = self.lab
        ids = lab.prompt(context, context + _STEPS)
        runs = steps_at(lab.decoder, self.makers, ids, context, context <= self.longest_without)
        costs = {(kind, "decode"): self.cost(kind, context) for kind in self.makers}
        return lab.compare(runs, STATIC, self.rounds, costs, label=f"context {context}")

    @property
    def longest(self) -> int:
        """The longest context."""
        return max(self.contexts)

    @property
    def without(self) -> list[int]:
        """The contexts after which no cache was timed."""
        return [context for context in sorted(self.contexts) if context <= self.longest_without]

    def means(self, kind: str) -> dict[int, float]:
        """Seconds a token of a variant at each context where it was timed."""
        return {
            context: found.mean(kind)
            for context, found in sorted(self.comparisons.items())
            if kind in found.variants
        }

    def shares(self, kind: str) -> dict[int, Ratio]:
        """The share of the bare read of a cache at each context."""
        found = {c: self.comparisons[c].share(kind) for c in self.means(kind)}
        return {context: share for context, share in found.items() if share is not None}

    def show(self) -> None:
        """Draw the times with their limits, where these were not beaten, and the shares of the
        bare read."""
        kinds = [NO_CACHE, *self.makers]
        measured = {kind: self.means(kind) for kind in kinds if self.means(kind)}
        least = {
            kind: {
                c: held.seconds
                for c, taken in times.items()
                if (held := self.lab.least(self.cost(kind, c)).standing(taken))
            }
            for kind, times in measured.items()
        }
        shares = {kind: self.shares(kind) for kind in self.makers}
        figures.along_context(sorted(self.contexts), measured, least, shares, self._alt(measured))

    def _alt(self, measured: dict[str, dict[int, float]]) -> str:
        """The ends of each line, in words."""
        ends = []
        for kind, times in measured.items():
            first, last = min(times), max(times)
            ends.append(
                f"{kind}: {seconds(times[first])} at a context of {first:,}, "
                f"{seconds(times[last])} at {last:,}"
            )
        return f"Time of a token. {'; '.join(ends)}."
