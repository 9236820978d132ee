"""Ratios over prompts: what a set of rounds says of other texts of the same kind.

Rounds that repeat one prompt say how sure its own time is, and nothing of other prompts. Each round
takes the next prompt, so the ratios of a prompt's rounds are first put together to one. The
interval over these ratios holds for prompts of this kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from labkit.studies.speculative_tasks import PLAIN
from labkit.timing.compare import Comparison
from labkit.timing.statistics import FEWEST_ROUNDS, Ratio, geometric_mean, interval


def rounds_for(wanted: int, prompts: int) -> int:
    """The number of rounds nearest to `wanted` in which every prompt runs equally often."""
    each = max(1, round(wanted / prompts))
    while each * prompts < FEWEST_ROUNDS:
        each += 1
    return each * prompts


def by_prompt(rounds: Sequence[float], prompts: int) -> list[float]:
    """The geometric mean of each prompt's rounds; round n, from 1 on, takes prompt n % prompts.

    Where a run was ended early, so that prompts ran unequally often, the rounds themselves.
    """
    if len(rounds) % prompts:
        return list(rounds)
    return [geometric_mean(rounds[first::prompts]) for first in range(prompts)]


class Rounds(NamedTuple):
    """The rounds of one kind of task.

    prompts: how many take turns. work: by variant, what each prompt's answer needs for a token: in
    passes of one row, where memory sets the limit of such a pass; else in rows.
    """

    comparison: Comparison
    prompts: int
    work: Mapping[str, Sequence[float]]

    @property
    def over_prompts(self) -> bool:
        """Whether intervals are over prompts, each with equally many rounds; else over rounds."""
        count = self.comparison.rounds
        return self.prompts > 1 and (count <= self.prompts or count % self.prompts == 0)

    def each(self, variant: str) -> list[float]:
        """The speedup of a variant on each prompt."""
        return by_prompt(self.comparison.speedup(variant).rounds, self.prompts)

    def speedup(self, variant: str) -> Ratio:
        """The mean speedup of a variant, over prompts."""
        return self._over(self.comparison.speedup(variant).rounds)

    def until(self, tokens: int) -> Rounds:
        """The same rounds, each answer cut to its first `tokens` tokens."""
        return self._replace(comparison=self.comparison.until(tokens))

    def share(self, variant: str) -> Ratio | None:
        """The time of reading the bytes of a variant's passes and nothing else, over its time.

        None where nothing was read beside it.
        """
        plain = self.comparison.share(PLAIN)
        if plain is None or variant == PLAIN:
            return None if plain is None else self._over(plain.rounds)
        speedup, work = self.comparison.speedup(variant), self.work[variant]
        return self._over([
            of_plain * gain * work[number % len(work)]
            for number, (of_plain, gain) in enumerate(
                zip(plain.rounds, speedup.rounds, strict=True), 1
            )
        ])  # fmt: skip

    def _over(self, rounds: Sequence[float]) -> Ratio:
        return interval(by_prompt(rounds, self.prompts) if self.over_prompts else rounds)


def together(kinds: Iterable[Rounds], variant: str) -> Ratio:
    """The mean speedup of a variant over the prompts of all kinds."""
    kinds = list(kinds)
    values = [value for rounds in kinds for value in rounds.each(variant)]
    return interval(values) if len(values) > 1 else kinds[0].speedup(variant)


def change(first: Iterable[Rounds], last: Iterable[Rounds], variant: str) -> Ratio:
    """The speedup of a variant in `last` over that in `first`, paired by prompt.

    Both are the same rounds, each answer cut to another length.
    """
    pairs = list(zip(first, last, strict=True))
    grown = [
        after / before
        for short, long in pairs
        for before, after in zip(short.each(variant), long.each(variant), strict=True)
    ]
    if len(grown) > 1:
        return interval(grown)
    ((short, long),) = pairs
    before, after = (one.comparison.speedup(variant).rounds for one in (short, long))
    return interval([b / a for a, b in zip(before, after, strict=True)])
