"""The tables of notebook 00: the machine, the cost of each pass, its limit, and what held it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from labkit.base.units import scaled, seconds
from labkit.limits.cost import Cost, decode_cost, prefill_cost
from labkit.limits.hardware import Hardware
from labkit.limits.roofline import Limit, limit
from labkit.model.config import ModelConfig
from labkit.report.told.compared import Least, told_value
from labkit.report.told.words import effect
from labkit.studies.lab import TIMES, told_fraction, told_share
from labkit.timing.compare import Comparison


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

    Each is the best spell, and the slowest. An accelerator has no threads to choose, so it has one
    row.
    """
    if not hardware.by_threads:
        largest = float(max(hardware.bandwidth_points))
        memory = (hardware.bandwidth(largest), hardware.slowest_bandwidth(largest))
        return [_rates(memory, (hardware.rate("float32"), hardware.slowest_rate("float32")))]
    return [
        {"threads": count}
        | _rates(
            (both["bandwidth"].best, both["bandwidth"].slowest),
            (both["matrix"].best, both["matrix"].slowest),
        )
        for count, both in hardware.by_threads.items()
    ]


def _rates(memory: tuple[float, float], product: tuple[float, float]) -> dict[str, object]:
    """Best and slowest of each, in bytes/s and FLOP/s."""
    return {
        "memory, GB/s": memory[0] / 1e9,
        "its slowest": memory[1] / 1e9,
        "float32 product, GFLOP/s": product[0] / 1e9,
        "slowest product": product[1] / 1e9,
    }


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


def limit_row(name: str, found: Limit, slowest: float | None, tokens: int) -> dict[str, object]:
    """A pass in the table of predictions. slowest: its seconds by the slowest sustained rates."""
    return {
        "pass": name,
        "reading": seconds(found.memory_seconds),
        "multiplying": seconds(found.compute_seconds),
        "limit, tok/s": found.rate(tokens),
        "at the slowest rates": None if slowest is None else tokens / slowest,
        "set by": found.bound,
    }


def held_row(
    comparison: Comparison, name: str, phase: str, fraction: float | None
) -> dict[str, object]:
    """A variant against its baseline, against the bare work of its rounds, and its limit.

    fraction: of the run's limit; None where the limit was beaten.
    """
    time = TIMES[phase]
    share, ratio = comparison.share(name, time), comparison.speedup(name, time)
    alone = name == comparison.baseline
    return {
        "variant": name,
        "time": told_value(comparison, name, time),
        "speedup": "–" if alone else str(ratio),
        "could have seen": "–" if alone else effect(ratio.smallest_effect),
        "share of the bare work": "–" if share is None else told_share(share),
        "of its limit": told_fraction(fraction),
    }


def limit_caption(phase: str, least: Least | None, bare: str) -> str:
    """The caption of a phase's table: its limit, and what is held against it.

    least: None where a variant was faster than the limit.
    """
    told = f"{phase.capitalize()}. Bare work: {bare}. "
    if least is None:
        return told + "Limit: none is told, for a variant was faster than it"
    told += f"Limit: {seconds(least.seconds)}"
    if least.slowest is None:
        return told
    return f"{told}, and {seconds(least.slowest)} at the slowest sustained rates of this run"


def bare_bandwidth(comparison: Comparison, name: str, cost: Cost, bound: str) -> float | None:
    """bytes/s of the bare read that a variant's decode was held against.

    None where memory does not set the limit (bound: memory or compute), or where none ran.
    """
    share = comparison.share(name, TIMES["decode"])
    if bound != "memory" or share is None:
        return None
    return cost.read_bytes / (share.value * comparison.mean(name, TIMES["decode"]))


def shares(comparison: Comparison, names: Iterable[str]) -> str:
    """The share of the bare work that each engine reached in decode, in a sentence."""
    time = TIMES["decode"]
    found = {name: comparison.share(name, time) for name in names}
    told = [f"{name} reached {told_share(share)}" for name, share in found.items() if share]
    if not told:
        return "Nothing that only reads ran beside them, so no share can be told."
    bare = comparison.bare[next(iter(found)), time].name
    return f"In decode, {' and '.join(told)} of what the {bare} reached in the same rounds."


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
