"""Where the time of a token goes, found by leaving parts out; all of it in the same rounds.

Each step leaves less out than the one before: the bare read of the token's bytes, then its matrix
products and nothing else, then the whole token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from labkit.base.device import Device
from labkit.base.units import seconds
from labkit.timing.compare import Comparison, Variant
from labkit.timing.statistics import Ratio, paired_ratio
from labkit.timing.trace import Trace, record

PRODUCTS = "matrix products alone"


@dataclass(frozen=True)
class Step:
    """One step: its time in seconds, and the paired ratio to the time of the step before."""

    name: str
    seconds: float
    over: Ratio | None = None

    @property
    def adds(self) -> float | None:
        """Seconds that it takes beyond the step before; None where its interval holds none."""
        if self.over is None:
            return self.seconds
        return self.seconds * (1 - 1 / self.over.value) if self.over.low > 1 else None


def repeated(work: Callable[[], object], count: int, device: Device) -> Variant:
    """A variant of a comparison that does the same work `count` times: a timestamp each."""

    def stream() -> Iterator[int]:
        for number in range(count):
            work()
            yield number

    def run(_: int) -> Trace:
        return record(stream, device=device)

    return run


def steps(comparison: Comparison, token: str, products: str = PRODUCTS) -> list[Step]:
    """The steps of a decoded token; without the bare read where the variant has none.

    token, products: variants whose TPOT is the time of a token, and of its products.
    """
    bare = comparison.bare.get((token, "tpot"))
    found: list[Step] = []
    over = None
    if bare is not None and bare.name in comparison.traces:
        read = comparison.mean(bare.name) * bare.repetitions
        found.append(Step(bare.name, read))
        alone = paired_ratio(comparison.values(products), comparison.values(bare.name))
        over = alone.times(1 / bare.repetitions)
    found.append(Step(products, comparison.mean(products), over))
    whole = paired_ratio(comparison.values(token), comparison.values(products))
    return [*found, Step("the whole token", comparison.mean(token), whole)]


def rows(found: list[Step]) -> list[dict[str, object]]:
    """The steps as rows of a table."""
    return [
        {
            "step": step.name,
            "time a token": seconds(step.seconds),
            "over the step above": "–" if step.over is None else str(step.over),
            "adds": told(step.adds),
            "share of the token": "–"
            if step.adds is None
            else f"{step.adds / found[-1].seconds:.0%}",
        }
        for step in found
    ]


def told(difference: float | None) -> str:
    """The time that a step adds, for a reader."""
    return "not measurable" if difference is None else seconds(difference)


def sentence(found: list[Step], operations: int, smallest: float) -> str:
    """What the steps say. operations: torch operations of a token. smallest: seconds of one that
    does next to nothing."""
    *before, products, token = found
    read = [f" The products take {products.over} the time of the {step.name}." for step in before]
    return (
        f"A token takes {seconds(token.seconds)}, and its matrix products alone "
        f"{seconds(products.seconds)}: torch multiplies each weight matrix by one row, and does "
        f"nothing else.{''.join(read)} The whole token takes {token.over} the time of its "
        f"products. Everything else in a token: {told(token.adds)}. A token dispatches "
        f"{operations:,} torch operations. A very small one, the sum of two rows, takes "
        f"{seconds(smallest)}; {operations:,} of these take {seconds(operations * smallest)}."
    )
