"""One question to the calculator, and its answer: limits, memory, the batch that turns, and money.

The calculator's page asks the same in a browser: report/pages/templates/limits.js is this
arithmetic once more, and a test holds both equal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from labkit.errors import ParameterError
from labkit.limits.cost import ELEMENT_BYTES, Cost, prefill_cost, step_cost, weight_bytes
from labkit.limits.hardware import Hardware
from labkit.limits.roofline import Limit, critical_batch, limit
from labkit.model.config import ModelConfig

# The least and the most that can be asked; prices are of an hour, in any currency.
ALLOWED: dict[str, tuple[float, float]] = {
    "batch": (1, 65_536),
    "context": (1, 10_000_000),
    "prompt_tokens": (1, 10_000_000),
    "price": (0.0001, 1_000_000),
}
_MILLION, _HOUR = 1e6, 3600.0


@dataclass(frozen=True)
class Question:
    """What is asked of a model and a machine.

    dtype: of the weights, and of the products. kv_dtype: of the KV cache. batch: sequences that
    decode together. context: tokens of each when the step runs, its prompt among them. price: of an
    hour of the machine; None where money is not asked for.
    """

    dtype: str = "bfloat16"
    kv_dtype: str = "bfloat16"
    batch: int = 1
    context: int = 2048
    prompt_tokens: int = 1024
    price: float | None = None

    def check(self, config: ModelConfig) -> None:
        """ParameterError, in one line, for what cannot be asked of this model."""
        for name in ("dtype", "kv_dtype"):
            if (given := getattr(self, name)) not in ELEMENT_BYTES:
                allowed = ", ".join(ELEMENT_BYTES)
                raise ParameterError(f"{name} {given!r} is unknown; allowed: {allowed}.")
        for name, (least, most) in ALLOWED.items():
            given = getattr(self, name)
            if given is not None and not least <= given <= most:
                raise ParameterError(f"{name} {given:,}: allowed are {least:g} to {most:,}.")
        if self.context > config.max_positions:
            raise ParameterError(
                f"context {self.context:,}: the model has a context of {config.max_positions:,}."
            )
        if self.prompt_tokens > self.context:
            raise ParameterError(
                f"prompt_tokens {self.prompt_tokens:,}: the context of {self.context:,} tokens "
                "holds the prompt, so it must be as long or longer."
            )


@dataclass(frozen=True)
class Phase:
    """The limit of a pass that reads or makes so many tokens."""

    tokens: int
    cost: Cost
    limit: Limit

    @property
    def rate(self) -> float:
        """tokens/s at most; infinite where no limit is known."""
        return self.limit.rate(self.tokens)

    def million(self, price: float) -> float:
        """What a million tokens cost at least, at this price of an hour."""
        return price / _HOUR / self.rate * _MILLION


@dataclass(frozen=True)
class Answer:
    """What the limits say. weights, kv: bytes of memory that must be held.

    prefill: of one prompt. decode: of one step of the batch. critical_batch: from which on a step
    is compute bound at this context, infinite where none is. largest_batch: that the memory holds,
    infinite where its size is not known.
    """

    weights: float
    kv: float
    prefill: Phase
    decode: Phase
    critical_batch: float
    largest_batch: float
    fits: bool


def answer(config: ModelConfig, hardware: Hardware, asked: Question) -> Answer:
    """The answer to a question; ParameterError for one that cannot be asked."""
    asked.check(config)
    a_token = config.kv_bytes_per_token(ELEMENT_BYTES[asked.kv_dtype])
    weights, a_sequence = weight_bytes(config, asked.dtype), a_token * asked.context
    prompt = prefill_cost(config, asked.prompt_tokens, dtype=asked.dtype)
    step = step_cost(
        config, asked.context, asked.batch, dtype=asked.dtype, kv_bytes_per_token=a_token
    )
    room = hardware.capacity - weights
    largest = max(math.floor(room / a_sequence), 0) if hardware.capacity else math.inf
    return Answer(
        weights=weights,
        kv=a_sequence * asked.batch,
        prefill=Phase(asked.prompt_tokens, prompt, limit(prompt, hardware)),
        decode=Phase(asked.batch, step, limit(step, hardware)),
        critical_batch=critical_batch(config, hardware, asked.dtype, asked.context, asked.kv_dtype),
        largest_batch=largest,
        fits=asked.batch <= largest,
    )
