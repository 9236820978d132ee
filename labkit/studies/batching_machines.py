"""What batching could give on other machines and with a larger model, by printed rates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from labkit.base.units import scaled
from labkit.limits.batching import batch_limits
from labkit.limits.calculator import shapes
from labkit.limits.datasheet import machine
from labkit.limits.hardware import Hardware
from labkit.limits.roofline import critical_batch
from labkit.model.config import ModelConfig
from labkit.report.told.words import percent, times
from labkit.studies.speculative_machines import MACHINES, unknown

_DTYPE, _BATCHES = "bfloat16", (1, 16, 64)
_LARGER, _CONTEXT = "llama-3.1-8b", 1024  # a larger model, and the tokens of its requests


class _Case(NamedTuple):
    """A model on a machine. reason: why its limit is not known; empty where it is."""

    there: Hardware
    model: str
    shape: ModelConfig
    context: int

    @property
    def reason(self) -> str:
        if _DTYPE not in self.there.matrix:
            return f"its rate of {_DTYPE} products is not printed"
        found = batch_limits(self.shape, self.there, _BATCHES, self.context, dtype=_DTYPE)
        return next((why for one in found if (why := unknown(one.cost, self.there))), "")

    def row(self) -> dict[str, object]:
        found = batch_limits(self.shape, self.there, _BATCHES, self.context, dtype=_DTYPE)
        most = found[-1]
        return {
            "machine": self.there.name,
            "model": self.model,
            "context": self.context,
            "critical batch": critical_batch(self.shape, self.there, _DTYPE),
            **{f"S({one.batch})/S(1) at the limit": times(one.gain) for one in found[1:]},
            f"KV read at {most.batch}": scaled(most.cost.kv_read_bytes, "B"),
            "of the bytes": percent(most.kv_share),
        }


def _cases(config: ModelConfig, context: int) -> Iterator[_Case]:
    models = {"this model": (config, context), _LARGER: (shapes()[_LARGER], _CONTEXT)}
    for name, (shape, tokens) in models.items():
        for there in map(machine, MACHINES):
            yield _Case(there, name, shape, tokens)


def rows_of_machines(config: ModelConfig, context: int) -> list[dict[str, object]]:
    """A row for each machine and model whose limit is known. context: tokens of each request."""
    return [one.row() for one in _cases(config, context) if not one.reason]


def left_out(config: ModelConfig, context: int) -> str:
    """Why others are missing, in sentences, and what the rows say together."""
    why: dict[str, list[str]] = {}
    for one in _cases(config, context):
        if one.reason:
            why.setdefault(one.reason, []).append(f"{one.model} on {one.there.name}")
    missing = [f"Not told for {', '.join(names)}: {reason}." for reason, names in why.items()]
    return " ".join(
        [
            "Nothing ran on these machines. The more products a machine does for each byte that it "
            "reads, the larger the batch up to which one more request costs no time. Keys and "
            "values grow with the batch and with the context; the weights do not.",
            *missing,
        ]
    )
