"""The tables of notebook 00: the cost of each pass, and where the time of a token goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from labkit.base.units import scaled, seconds
from labkit.limits.cost import Cost, decode_cost, prefill_cost
from labkit.limits.hardware import Hardware
from labkit.limits.roofline import Limit, limit
from labkit.model.config import ModelConfig

LIMIT, MATRICES, REST = "limit", "matrix products above it", "everything else"


class Pass(NamedTuple):
    """One forward pass: its cost, and how many tokens it reads or yields."""

    cost: Cost
    tokens: int


def passes(config: ModelConfig, prompt_tokens: int, dtype: str) -> dict[str, Pass]:
    """The passes whose limit is shown, by name: a prefill, an early and the last decode step."""
    last = config.max_positions - 1
    return {
        f"prefill of {prompt_tokens}": Pass(
            prefill_cost(config, prompt_tokens, dtype=dtype), prompt_tokens
        ),
        f"decode at {prompt_tokens}": Pass(decode_cost(config, prompt_tokens, dtype=dtype), 1),
        "decode at the full context": Pass(decode_cost(config, last, dtype=dtype), 1),
    }


def thread_rows(hardware: Hardware) -> list[dict[str, object]]:
    """The machine's bandwidth and matrix rate at each number of threads, as rows of a table.

    An accelerator has no threads to choose, so it has one row.
    """
    if not hardware.by_threads:
        memory, product = hardware.describe()["memory_bandwidth"], hardware.rate("float32")
        return [{"memory, GB/s": memory / 1e9, "float32 product, GFLOP/s": product / 1e9}]
    return [
        {
            "threads": count,
            "memory, GB/s": both["bandwidth"].best / 1e9,
            "memory, spread": f"{both['bandwidth'].spread:.0%}",
            "float32 product, GFLOP/s": both["matrix"].best / 1e9,
        }
        for count, both in hardware.by_threads.items()
    ]


def cost_row(name: str, cost: Cost) -> dict[str, object]:
    """A pass in the table of costs."""
    return {
        "pass": name,
        "weights": scaled(cost.weight_bytes, "B"),
        "KV read": scaled(cost.kv_read_bytes, "B"),
        "KV written": scaled(cost.kv_write_bytes, "B"),
        "arithmetic": scaled(cost.flops, "FLOP"),
        "FLOPs a byte": cost.intensity,
    }


def limit_row(name: str, found: Limit, tokens: int) -> dict[str, object]:
    """A pass in the table of predictions."""
    return {
        "pass": name,
        "reading": seconds(found.memory_seconds),
        "multiplying": seconds(found.compute_seconds),
        "limit, tok/s": found.rate(tokens),
        "set by": found.bound,
    }


def rates_by_batch(
    config: ModelConfig,
    hardware: Hardware,
    dtype: str,
    contexts: Iterable[int],
    batches: Iterable[int],
) -> dict[int, list[float]]:
    """The decode limit of all streams together, tokens/s at each batch, by context."""
    batches = list(batches)
    return {
        context: [limit(decode_cost(config, context, b, dtype), hardware).rate(b) for b in batches]
        for context in contexts
    }


def rates_by_context(
    config: ModelConfig,
    hardware: Hardware,
    dtype: str,
    contexts: Iterable[int],
    batches: Iterable[int],
) -> dict[int, list[float]]:
    """The decode limit of each stream, tokens/s at each context, by batch."""
    contexts = list(contexts)
    return {
        b: [limit(decode_cost(config, context, b, dtype), hardware).rate() for context in contexts]
        for b in batches
    }


def parts_of_token(token: float, matrices: float, least: float) -> dict[str, float]:
    """Seconds of one token's parts; they add up to the token.

    token: measured. matrices: multiplying every matrix once by one row, measured alone. least: the
    limit. The three are measured at different moments, so a part can be below zero: then it is too
    small to measure this way.
    """
    return {LIMIT: least, MATRICES: matrices - least, REST: token - matrices}


def part_rows(parts: Mapping[str, float]) -> list[dict[str, object]]:
    """The parts as rows of a table; a part below zero is shown as not measurable."""
    token = sum(parts.values())
    return [
        {
            "part": name,
            "time a token": measurable(value),
            "share": f"{value / token:.0%}" if value > 0 else "–",
        }
        for name, value in parts.items()
    ]


def measurable(value: float) -> str:
    """A difference of two times in seconds, for a reader."""
    return seconds(value) if value > 0 else f"not measurable ({seconds(value)})"
